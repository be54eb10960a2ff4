package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Request is what a CONNECT says: where to, and who asks.
type Request struct {
	Authority Authority
	Baggage   Baggage
	Forwarded Forwarded
	Trace     TraceParent
	Network   string // x-forwarded-network: the origin network, when the connection came through a gateway
}

// Target names the tunnel that a connection needs.
type Target struct {
	Source   identity.Workload   // whose certificate proves us
	Expected []identity.Workload // the peer must prove one of these
	Addr     netip.AddrPort      // what to dial
}

// PoolConfig makes a Pool. Dial and TLS are required.
type PoolConfig struct {
	// Dial opens the TCP connection of a tunnel.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// TLS gives the configuration that proves source and accepts expected only. It is asked once per tunnel.
	TLS func(ctx context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error)

	MaxStreams  int           // streams per tunnel before another is opened; 0 means 100; the peer's own limit is kept as well
	IdleTimeout time.Duration // how long a tunnel without streams is kept; 0 means 5 minutes
}

// Pool opens tunnels and shares them among the streams that may share them: same source, same expected peers, same address.
type Pool struct {
	cfg PoolConfig
}

// NewPool makes an empty pool.
func NewPool(cfg PoolConfig) *Pool { return &Pool{cfg: cfg} }

// Connect opens a stream to req.Authority through a tunnel to target. A nil error means that the peer answered 200. It fails
// with *DialError, *StatusError, the context's error, or what broke the tunnel.
func (p *Pool) Connect(ctx context.Context, target Target, req Request) (*Stream, error) {
	return nil, errors.New("skeleton")
}

// Shutdown opens no more streams, waits for the running ones until ctx ends, and closes the pool.
func (p *Pool) Shutdown(ctx context.Context) {}

// Close cuts every tunnel and waits for the pool's goroutines.
func (p *Pool) Close() {}
