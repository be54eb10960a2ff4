package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// maxHandshakes bounds the handshakes that a server has under way; each may cost 10 seconds of memory and a signature.
const maxHandshakes = 4096

// ServerConfig makes a Server. TLS and Handle are required.
type ServerConfig struct {
	// TLS gives the configuration for an arriving tunnel; it must require and verify the client's certificate.
	TLS func(ctx context.Context) (*tls.Config, error)
	// Handle decides one CONNECT, in a goroutine of its own, and must end it with Accept or Refuse.
	Handle func(*Incoming)
	// Failed hears of handshakes, requests and tunnels that failed by the peer's fault or the network's. It may be nil.
	Failed func(remote, local netip.AddrPort, err error)

	MaxStreams int // concurrent streams per tunnel; 0 means 200
}

// Server accepts tunnels on connections that somebody else accepted.
type Server struct {
	cfg    ServerConfig
	ctx    context.Context // of handshakes
	cancel context.CancelFunc
	wait   sync.WaitGroup // handshakes and watchers of tunnels' ends; guarded by mu against closed

	mu         sync.Mutex
	closed     bool // no more connections
	handshakes int
	tunnels    map[*tunnel]struct{}
}

// NewServer makes a server without connections.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 200
	}
	s := &Server{cfg: cfg, tunnels: make(map[*tunnel]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve takes the connection over and returns at once.
func (s *Server) Serve(conn *net.TCPConn) {
	s.mu.Lock()
	closed, full := s.closed, s.handshakes >= maxHandshakes
	if !closed && !full {
		s.handshakes++
		s.wait.Go(func() { s.handshake(conn) })
	}
	s.mu.Unlock()
	if !closed && !full {
		return
	}
	local, remote := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	_ = conn.SetLinger(0)
	_ = conn.Close()
	if !closed {
		s.failed(remote, local, errors.New("too many handshakes are under way"))
	}
}

// handshake makes a tunnel of a connection.
func (s *Server) handshake(conn *net.TCPConn) {
	local, remote := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	socket := &packed{Conn: conn}
	secured, peer, err := s.secure(socket)
	if err != nil {
		_ = conn.Close()
		if s.ctx.Err() == nil {
			s.failed(remote, local, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handshakes--
	if err != nil || s.closed {
		_ = conn.Close()
		return
	}
	t := newTunnel(tunnelConfig{
		socket: socket, conn: secured, peer: peer, max: s.cfg.MaxStreams,
		accept: func(stream *Stream, req Request) { s.handle(stream, req, local, remote) },
		fault:  func(err error) { s.failed(remote, local, err) },
		ended:  s.ended,
	})
	s.tunnels[t] = struct{}{}
}

// secure makes the TLS handshake within its deadline.
func (s *Server) secure(socket *packed) (net.Conn, identity.Workload, error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	config, err := s.cfg.TLS(ctx)
	if err != nil {
		return nil, identity.Workload{}, fmt.Errorf("own certificate: %w", err)
	}
	conn := tls.Server(socket, config)
	peer, err := shake(ctx, conn)
	return conn, peer, err
}

// shake makes the handshake and checks what HBONE asks of it.
func shake(ctx context.Context, conn *tls.Conn) (identity.Workload, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return identity.Workload{}, fmt.Errorf("TLS handshake: %w", err)
	}
	state := conn.ConnectionState()
	switch {
	case state.Version != tls.VersionTLS13:
		return identity.Workload{}, errors.New("TLS handshake: the peer does not speak TLS 1.3")
	case state.NegotiatedProtocol != "h2":
		return identity.Workload{}, errors.New("TLS handshake: the peer does not offer h2")
	}
	return mtls.PeerIdentity(state)
}

func (s *Server) failed(remote, local netip.AddrPort, err error) {
	if s.cfg.Failed != nil {
		s.cfg.Failed(remote, local, err)
	}
}

// ended takes a tunnel off.
func (s *Server) ended(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tunnels, t)
}

// Shutdown tells every peer to open no more streams, refuses new connections, waits for the running streams until ctx ends, and
// closes.
func (s *Server) Shutdown(ctx context.Context) {
	tunnels := s.stop()
	for _, t := range tunnels {
		t.shutdown()
	}
	for _, t := range tunnels {
		select {
		case <-t.gone:
		case <-ctx.Done():
		}
	}
	s.Close()
}

// Close cuts every tunnel and waits for the server's goroutines. It must not be called by Handle, Failed or a
// function that was given to Join.
func (s *Server) Close() {
	tunnels := s.stop()
	s.cancel()
	for _, t := range tunnels {
		t.cut(errClosed)
	}
	s.wait.Wait()
	for _, t := range tunnels {
		<-t.gone
	}
}

// stop takes no more connections and returns the tunnels.
func (s *Server) stop() []*tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	tunnels := make([]*tunnel, 0, len(s.tunnels))
	for t := range s.tunnels {
		tunnels = append(tunnels, t)
	}
	return tunnels
}

func (s *Server) handle(stream *Stream, req Request, local, remote netip.AddrPort) {
	in := &Incoming{Request: req, Peer: stream.Peer(), Local: local, Remote: remote, stream: stream}
	in.ctx = stream.context()
	s.cfg.Handle(in)
	in.Refuse(503) // fails closed when Handle forgot to answer
}

// Incoming is a CONNECT that waits for its answer.
type Incoming struct {
	Request       Request
	Peer          identity.Workload // proven by the client's certificate
	Local, Remote netip.AddrPort    // of the tunnel's TCP connection

	stream   *Stream
	ctx      context.Context
	answered bool
}

// Context ends when the stream or its tunnel dies.
func (in *Incoming) Context() context.Context { return in.ctx }

// Accept answers 200 with our workload's baggage. It fails when the stream died meanwhile.
func (in *Incoming) Accept(b Baggage) (*Stream, error) {
	if in.answered {
		return nil, errors.New("request was answered already")
	}
	in.answered = true
	return in.stream, in.stream.respond(200, b)
}

// Refuse answers with the status and ends the stream. After an answer it does nothing.
func (in *Incoming) Refuse(status int) {
	if !in.answered {
		in.answered = true
		_ = in.stream.respond(status, Baggage{}) // fails only when the peer has gone
	}
}

// respond answers a request; any status but 200 ends the stream.
func (s *Stream) respond(status int, b Baggage) error {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	err := s.err
	if err == nil {
		err = t.core.Headers(s.id, responseFields(status, b), status != 200)
	}
	if err != nil {
		t.core.Reset(s.id, h2.InternalError)
		s.fail(err)
	}
	s.answered = true
	t.flushNow()
	if err != nil || status != 200 {
		t.core.Consumed(s.id, s.in.size())
		s.in.clear()
		s.cancel()
		t.forget(s)
	}
	return err
}

// context makes the context of an Incoming.
func (s *Stream) context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.err != nil {
		cancel()
	}
	s.cancel = cancel
	return ctx
}

// addrPort returns a TCP address with IPv4 as such.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	a := tcp.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
