package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
)

// maxHandshakes bounds the handshakes that a server has under way; each may cost 10 seconds of memory and a signature.
const maxHandshakes = 4096

var errTooMany = errors.New("too many handshakes are under way")

// ServerConfig makes a Server. Loop, TLS and Handle are required.
type ServerConfig struct {
	Loop *loop.Loop
	// TLS gives the configuration for an arriving tunnel, in a goroutine; it must require and verify the client's certificate.
	TLS func(ctx context.Context) (*tls.Config, error)
	// Check is asked once more about every peer before its tunnel begins, on the loop, so that Cut misses none. It may be nil.
	Check Check
	// Handle decides one CONNECT, on the loop. It must end it with Accept or Refuse, at once or later.
	Handle func(*Incoming)
	// Failed hears of handshakes, requests and tunnels that failed, on the loop. It may be nil.
	Failed func(Failure)

	Limits     h2.Config   // windows and frame size; zero fields mean the defaults
	Quota      *loop.Quota // of the connections; nil for no bound
	MaxStreams int         // concurrent streams per tunnel; 0 means 200
	// MaxAge is after how long, give or take a tenth, the peer is told to open another tunnel, so that new instances of a server get their
	// part; streams go on. 0 means never.
	MaxAge time.Duration
}

// Failure is a tunnel that didn't come about or broke, or a request on it that was none, by the peer's fault or the network's.
type Failure struct {
	Remote, Local netip.AddrPort // of the TCP connection
	Stage         Stage          // StageIdentity, StageTLS, or StageHTTP2 for all that comes after the handshake
	Err           error
}

// Server accepts tunnels on connections that somebody else accepted. A server and all that comes of it belongs to one loop, on
// whose thread its methods are called.
type Server struct {
	cfg        ServerConfig
	ctx        context.Context // of handshakes
	cancel     context.CancelFunc
	closed     bool                    // no more connections
	handshakes map[*handshake]struct{} // and those that failed whose sockets linger
	tunnels    map[*tunnel]struct{}
	idle       []func() // called when there are none any more
}

// NewServer makes a server without connections.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 200
	}
	s := &Server{cfg: cfg, handshakes: make(map[*handshake]struct{}), tunnels: make(map[*tunnel]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve takes over an accepted, non-blocking socket.
func (s *Server) Serve(fd int, local, remote netip.AddrPort) {
	if s.closed || len(s.handshakes) >= maxHandshakes {
		s.cfg.Loop.Reset(fd)
		if !s.closed {
			s.failed(Failure{remote, local, StageTLS, errTooMany})
		}
		return
	}
	if err := s.cfg.Quota.Take(1); err != nil {
		s.cfg.Loop.Reset(fd)
		s.failed(Failure{remote, local, StageTLS, err})
		return
	}
	h := &handshake{loop: s.cfg.Loop, role: record.Server, parent: s.ctx, config: s.cfg.TLS, check: s.cfg.Check}
	h.done = func(out shaken) {
		if out.err != nil {
			s.failed(Failure{remote, local, out.stage, out.err})
			return
		}
		delete(s.handshakes, h)
		s.welcome(fd, local, remote, out)
	}
	h.closed = func() {
		s.cfg.Quota.Give(1)
		delete(s.handshakes, h)
		s.tellIdle()
	}
	s.handshakes[h] = struct{}{}
	h.prepare()
	h.start(fd)
}

// welcome makes a tunnel of a connection whose handshake is done.
func (s *Server) welcome(fd int, local, remote netip.AddrPort, out shaken) {
	if age := s.cfg.MaxAge; age > 0 {
		end := s.cfg.Loop.Now().Add(age - age/10 + rand.N(age/5+1))
		if out.expiry.IsZero() || end.Before(out.expiry) {
			out.expiry = end
		}
	}
	t := newTunnel(tunnelConfig{
		loop: s.cfg.Loop, role: h2.Server, limits: s.cfg.Limits, max: s.cfg.MaxStreams, local: local, remote: remote,
		accept: s.accept,
		fault:  func(err error) { s.failed(Failure{remote, local, stageOf(err), err}) },
		ended:  s.ended,
	}, fd, out)
	s.tunnels[t] = struct{}{}
	if s.closed {
		t.shutdown()
	}
}

// accept has a CONNECT decided.
func (s *Server) accept(stream *Stream, req Request) {
	t := stream.t
	in := &Incoming{Request: req, Peer: t.peer, Local: t.local, Remote: t.remote, stream: stream}
	stream.incoming = in
	in.timer.Run = func() { in.Refuse(503) }
	t.loop.After(&in.timer, answerTimeout)
	s.cfg.Handle(in)
}

func (s *Server) failed(f Failure) {
	if s.cfg.Failed != nil && s.ctx.Err() == nil {
		s.cfg.Failed(f)
	}
}

// ended takes a tunnel off.
func (s *Server) ended(t *tunnel) {
	s.cfg.Quota.Give(1)
	delete(s.tunnels, t)
	s.tellIdle()
}

func (s *Server) tellIdle() {
	if len(s.tunnels) > 0 || len(s.handshakes) > 0 {
		return
	}
	idle := s.idle
	s.idle = nil
	for _, f := range idle {
		f()
	}
}

// Shutdown takes no new connections, tells every peer to open no more streams, lets the running streams end, and calls idle when
// there is no tunnel left. Handshakes that are under way go on, and are then told the same.
func (s *Server) Shutdown(idle func()) {
	s.closed = true
	for t := range s.tunnels {
		t.shutdown()
	}
	s.OnGone(idle)
}

// OnGone calls gone when nothing is left of the server. Call it after Close: peers get a second to hear of that.
func (s *Server) OnGone(gone func()) {
	s.idle = append(s.idle, gone)
	s.tellIdle()
}

// Cut ends the tunnels whose peer's certificates are found wanting, with the error that check returns.
func (s *Server) Cut(check Check) {
	for t := range s.tunnels {
		t.recheck(check)
	}
}

// Close takes no new connections and cuts every tunnel.
func (s *Server) Close() {
	s.closed = true
	s.cancel()
	for h := range s.handshakes {
		h.abandon(errClosed)
	}
	for t := range s.tunnels {
		t.cut(errClosed)
	}
}
