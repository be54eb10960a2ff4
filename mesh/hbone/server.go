package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

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
	// Failed hears of handshakes, requests and tunnels that failed. Of a tunnel that makes many it hears a part. It may be nil.
	Failed func(Failure)

	MaxStreams int // concurrent streams per tunnel; 0 means 200
}

// Failure is a tunnel that didn't come about or broke, or a request on it that was none, by the peer's fault or the network's.
type Failure struct {
	Remote, Local netip.AddrPort // of the TCP connection
	Stage         Stage          // StageIdentity, StageTLS, or StageHTTP2 for all that comes after the handshake
	Err           error
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
		s.failed(Failure{remote, local, StageTLS, errors.New("too many handshakes are under way")})
	}
}

// handshake makes a tunnel of a connection.
func (s *Server) handshake(conn *net.TCPConn) {
	local, remote := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	socket := &packed{Conn: conn}
	secured, peer, stage, err := s.secure(socket)
	if err != nil {
		_ = conn.Close()
		if s.ctx.Err() == nil {
			s.failed(Failure{remote, local, stage, err})
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
		fault:  func(err error) { s.failed(Failure{remote, local, stageOf(err), err}) },
		ended:  s.ended,
	})
	s.tunnels[t] = struct{}{}
}

// secure makes the TLS handshake within its deadline. stage is what was tried last.
func (s *Server) secure(socket *packed) (_ net.Conn, peer identity.Workload, stage Stage, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	config, err := s.cfg.TLS(ctx)
	if err != nil {
		return nil, identity.Workload{}, StageIdentity, fmt.Errorf("own certificate: %w", err)
	}
	conn := tls.Server(socket, config)
	peer, err = shake(ctx, conn)
	return conn, peer, StageTLS, err
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

func (s *Server) failed(f Failure) {
	if s.cfg.Failed != nil {
		s.cfg.Failed(f)
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
	cutAll(tunnels, &s.wait)
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

// addrPort returns a TCP address with IPv4 as such.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	a := tcp.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
