package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	maxStreams     = 100 // Envoy's limit, which no tunnel exceeds
	connectTimeout = 10 * time.Second
	maxAttempts    = 4  // tunnels that a request tries when each says that it did not process it
	maxRounds      = 20 // dials that a request waits for when others are faster to take the room that they make
)

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

	MaxStreams  int           // streams per tunnel before another is opened; 0 means 100, the most; the peer's own limit is kept as well
	IdleTimeout time.Duration // how long a tunnel without streams is kept; 0 means 5 minutes
}

// Pool opens tunnels and shares them among the streams that may share them: same source, same expected peers, same address.
type Pool struct {
	cfg    PoolConfig
	ctx    context.Context // of dials
	cancel context.CancelFunc
	wait   sync.WaitGroup // dials; guarded by mu against closed

	mu     sync.Mutex
	closed bool
	shared map[key]*share
}

// key is what streams of one tunnel have in common.
type key struct {
	source   identity.Workload
	expected string // identities, in order
	addr     netip.AddrPort
}

func (t Target) key() key {
	if len(t.Expected) == 1 {
		return key{t.Source, t.Expected[0].String(), t.Addr}
	}
	names := make([]string, len(t.Expected))
	for i, id := range t.Expected {
		names[i] = id.String()
	}
	slices.Sort(names)
	return key{t.Source, strings.Join(names, " "), t.Addr}
}

// share is the tunnels of one key, and the dials for more.
type share struct {
	tunnels []*tunnel
	dials   []*dial
	room    int // streams that a tunnel takes, as far as is known
}

// dial is one attempt to open a tunnel. All who wait for it share its outcome.
type dial struct {
	waiters int
	done    chan struct{}
	tunnel  *tunnel // valid after done
	err     error   // valid after done
}

// NewPool makes an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.MaxStreams <= 0 || cfg.MaxStreams > maxStreams {
		cfg.MaxStreams = maxStreams
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 5 * time.Minute
	}
	p := &Pool{cfg: cfg, shared: make(map[key]*share)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Connect opens a stream to req.Authority through a tunnel to target. A nil error means that the peer answered 200. It fails
// with *DialError, *StatusError, the context's error, or what broke the tunnel.
func (p *Pool) Connect(ctx context.Context, target Target, req Request) (*Stream, error) {
	if req.Authority.isZero() {
		return nil, errors.New("connect without a destination")
	}
	k, fields := target.key(), req.fields()
	var err error
	for range maxAttempts {
		var s *Stream
		if s, err = p.open(ctx, k, target, fields); err != nil {
			return nil, err
		}
		if err = s.await(ctx); err == nil {
			return s, nil
		}
		if !errors.Is(err, errUnprocessed) {
			return nil, s.t.explain(err, target.Addr)
		}
	}
	return nil, err
}

// open opens a stream on a tunnel that has room, and waits for one if there is none.
func (p *Pool) open(ctx context.Context, k key, target Target, fields []hpack.HeaderField) (*Stream, error) {
	for range maxRounds {
		s, d, err := p.checkout(k, target, fields)
		if s != nil || err != nil {
			return s, err
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err != nil {
			return nil, d.err
		}
		if err := d.tunnel.fate(); err != nil { // another dial would likely end the same way
			return nil, d.tunnel.explain(err, target.Addr)
		}
	}
	return nil, &DialError{Stage: StageHTTP2, Addr: target.Addr, Err: h2.ErrMaxStreams}
}

// checkout opens a stream on a tunnel that has room, or else gives a dial to wait for. One dial serves as many waiters as its
// tunnel will have streams.
func (p *Pool) checkout(k key, target Target, fields []hpack.HeaderField) (*Stream, *dial, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	sh := p.shared[k]
	if sh == nil {
		sh = &share{room: p.cfg.MaxStreams}
		p.shared[k] = sh
	}
	for _, t := range sh.tunnels {
		s, err := t.open(fields)
		if err == nil {
			return s, nil, nil
		}
		switch {
		case errors.Is(err, h2.ErrHeaderLimit):
			return nil, nil, err
		case errors.Is(err, h2.ErrMaxStreams):
			sh.room = t.room()
		}
	}
	for _, d := range sh.dials {
		if d.waiters < sh.room {
			d.waiters++
			return nil, d, nil
		}
	}
	d := &dial{waiters: 1, done: make(chan struct{})}
	sh.dials = append(sh.dials, d)
	target.Expected = slices.Clone(target.Expected)
	p.wait.Go(func() { p.run(d, k, target) })
	return nil, d, nil
}

// run makes a dial and tells its waiters.
func (p *Pool) run(d *dial, k key, target Target) {
	cfg, err := p.dial(target)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(d.done)
	sh := p.shared[k]
	sh.dials = slices.DeleteFunc(sh.dials, func(other *dial) bool { return other == d })
	if err == nil && p.closed {
		_ = cfg.socket.Conn.Close()
		err = errClosed
	}
	if d.err = err; err != nil {
		p.tidy(k, sh)
		return
	}
	cfg.max, cfg.idle = p.cfg.MaxStreams, p.cfg.IdleTimeout
	cfg.ended = func(t *tunnel) { p.ended(k, t) }
	d.tunnel = newTunnel(cfg)
	sh.tunnels = append(sh.tunnels, d.tunnel)
}

// dial opens the connection and makes the handshake.
func (p *Pool) dial(target Target) (tunnelConfig, error) {
	failed := func(stage Stage, err error) (tunnelConfig, error) {
		return tunnelConfig{}, &DialError{Stage: stage, Addr: target.Addr, Err: err}
	}
	ctx, cancel := context.WithTimeout(p.ctx, connectTimeout)
	defer cancel()
	config, err := p.cfg.TLS(ctx, target.Source, target.Expected)
	if err != nil {
		return failed(StageIdentity, err)
	}
	conn, err := p.cfg.Dial(ctx, target.Addr)
	if err != nil {
		return failed(StageConnect, err)
	}
	ctx, cancel = context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	socket := &packed{Conn: conn}
	secured := tls.Client(socket, config)
	if _, err := shake(ctx, secured); err != nil {
		_ = conn.Close()
		return failed(StageTLS, err)
	}
	return tunnelConfig{socket: socket, conn: secured}, nil
}

// ended takes a dead tunnel off.
func (p *Pool) ended(k key, t *tunnel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sh := p.shared[k]
	sh.tunnels = slices.DeleteFunc(sh.tunnels, func(other *tunnel) bool { return other == t })
	p.tidy(k, sh)
}

func (p *Pool) tidy(k key, sh *share) {
	if len(sh.tunnels) == 0 && len(sh.dials) == 0 {
		delete(p.shared, k)
	}
}

// Close opens no more streams, cuts every tunnel and waits for the pool's goroutines. It must not be called by a function that was given to Join.
func (p *Pool) Close() {
	tunnels := p.stop()
	p.cancel()
	cutAll(tunnels, &p.wait)
}

// stop opens no more tunnels and returns those that live.
func (p *Pool) stop() []*tunnel {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var tunnels []*tunnel
	for _, sh := range p.shared {
		tunnels = append(tunnels, sh.tunnels...)
	}
	return tunnels
}
