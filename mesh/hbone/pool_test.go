package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// accepting has the server accept everything and keep it open.
func accepting(in *Incoming) {
	if s, err := in.Accept(Baggage{}); err == nil {
		go func() {
			c := s.Conn()
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}()
	}
}

func TestConnectionsShareATunnelUpToTheLimit(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	var streams []*Stream
	for range 100 {
		streams = append(streams, b.connect())
	}
	if got := b.tunnels(); got != 1 {
		t.Errorf("100 connections use %d tunnels, want 1", got)
	}
	streams = append(streams, b.connect())
	if got := b.tunnels(); got != 2 {
		t.Errorf("101 connections use %d tunnels, want 2", got)
	}
	// The full tunnel comes back into use.
	first := streams[0].t
	streams[0].Reset()
	if again := b.connect(); again.t != first || b.tunnels() != 2 {
		t.Errorf("with room on the first tunnel another was used, of %d", b.tunnels())
	}
}

func TestManyConnectsAtOnce(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range 350 {
		wg.Go(func() {
			s, err := b.pool.Connect(t.Context(), b.target(), b.request())
			if err != nil {
				failed.Add(1)
				t.Error(err)
				return
			}
			_ = s
		})
	}
	wg.Wait()
	if got := b.tunnels(); got < 4 || got > 8 {
		t.Errorf("350 connections use %d tunnels", got)
	}
}

func TestTunnelsAreSharedByNobodyElse(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	targets := []Target{b.target(), b.target(), b.target(), b.target()}
	targets[1].Source = b.ca.Identity("shop", "other")
	targets[2].Expected = append(targets[2].Expected, b.ca.Identity("shop", "alias"))
	targets[3].Expected = []identity.Workload{b.ca.Identity("shop", "alias"), b.server.Identity} // the same set as 2
	for _, target := range targets {
		if _, err := b.pool.Connect(t.Context(), target, b.request()); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.tunnels(); got != 3 {
		t.Errorf("%d tunnels, want 3: one for each source and each set of expected identities", got)
	}
}

// Those who wait for a dial share its failure; nobody waits for the failures of others one after another.
func TestOneFailureForAllWhoWait(t *testing.T) {
	b := newBed(t)
	var dials atomic.Int32
	release := make(chan struct{})
	cause := errors.New("no route")
	pool := NewPool(PoolConfig{
		TLS: b.pool.cfg.TLS,
		Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
			dials.Add(1)
			<-release
			return nil, cause
		},
	})
	defer pool.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := pool.Connect(t.Context(), b.target(), b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != StageConnect || !errors.Is(err, cause) {
				t.Errorf("Connect = %v", err)
			}
		})
	}
	waiting(t, pool, 50)
	close(release)
	wg.Wait()
	if got := dials.Load(); got != 1 {
		t.Errorf("%d dials for 50 who waited, want 1", got)
	}
	if len(pool.shared) != 0 {
		t.Error("the pool remembers a target that it has no tunnel to")
	}
}

// waiting waits until so many wait for a dial.
func waiting(t *testing.T, pool *Pool, n int) {
	t.Helper()
	eventually(t, "connects to wait", func() bool {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		waiting := 0
		for _, sh := range pool.shared {
			for _, d := range sh.dials {
				waiting += d.waiters
			}
		}
		return waiting == n
	})
}

func TestFailuresNameTheirStage(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	closed := listen(t)
	_ = closed.Close()
	stranger := b.ca.Identity("shop", "stranger")
	for _, test := range []struct {
		name   string
		change func(*Target, *PoolConfig)
		want   Stage
	}{
		{"nobody listens", func(target *Target, _ *PoolConfig) { target.Addr = closed.Addr().(*net.TCPAddr).AddrPort() }, StageConnect},
		{"no certificate of our own", func(_ *Target, cfg *PoolConfig) {
			cfg.TLS = func(context.Context, identity.Workload, []identity.Workload) (*tls.Config, error) {
				return nil, errors.New("none")
			}
		}, StageIdentity},
		{"another peer than expected", func(target *Target, _ *PoolConfig) { target.Expected = []identity.Workload{stranger} }, StageTLS},
		{"nobody expected", func(target *Target, _ *PoolConfig) { target.Expected = nil }, StageTLS},
		{"our certificate is refused", func(_ *Target, cfg *PoolConfig) {
			other := newForeigner(t, b)
			cfg.TLS = func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
				return mtls.ClientConfig(other, expected), nil
			}
		}, StageTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool := b.newPool(PoolConfig{})
			defer pool.Close()
			target := b.target()
			test.change(&target, &pool.cfg)
			_, err := pool.Connect(t.Context(), target, b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != test.want || dial.Addr != target.Addr {
				t.Errorf("Connect = %v, want stage %q", err, test.want)
			}
		})
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	b := newBed(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	b.onConnect(func(in *Incoming) {
		cancel()
		<-in.Context().Done()
		_, err := in.Accept(Baggage{})
		gone <- err
	})
	if _, err := b.pool.Connect(ctx, b.target(), b.request()); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect = %v", err)
	}
	if err := <-gone; err == nil {
		t.Error("the server could accept a connection that was given up")
	}
	b.onConnect(accepting)
	b.connect()
	if b.tunnels() != 1 {
		t.Error("giving up one connection cost the tunnel")
	}
}

func TestIdleTunnelsAreClosed(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	pool := b.newPool(PoolConfig{IdleTimeout: 50 * time.Millisecond})
	defer pool.Close()
	s, err := pool.Connect(t.Context(), b.target(), b.request())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.t.gone:
		t.Fatal("a tunnel in use was closed")
	case <-time.After(150 * time.Millisecond):
	}
	s.Reset()
	select {
	case <-s.t.gone:
	case <-time.After(patience):
		t.Fatal("an idle tunnel is not closed")
	}
	if len(pool.shared) != 0 {
		t.Error("the pool keeps a tunnel that is gone")
	}
	if _, err := pool.Connect(t.Context(), b.target(), b.request()); err != nil {
		t.Errorf("Connect after the eviction = %v", err)
	}
}

// A peer that takes no streams gets one tunnel for all who ask, which isn't kept.
func TestPeerThatAllowsNoStreams(t *testing.T) {
	b := newBed(t)
	none := func(p *rawPeer) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		for {
			if _, err := p.next(); err != nil {
				_ = p.conn.Close()
				return
			}
		}
	}
	target := b.target()
	target.Addr = b.rawServer(slices.Repeat([]func(*rawPeer){func(p *rawPeer) { go none(p) }}, 100)...)
	var dials atomic.Int32
	release := make(chan struct{})
	dial := b.pool.cfg.Dial
	b.pool.cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		dials.Add(1)
		<-release
		return dial(ctx, addr)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := b.pool.Connect(t.Context(), target, b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != StageHTTP2 || !errors.Is(err, errNoStreams) {
				t.Errorf("Connect = %v, want %v", err, errNoStreams)
			}
		})
	}
	waiting(t, b.pool, 50)
	close(release)
	wg.Wait()
	if got := dials.Load(); got > 3 { // one who sees the first tunnel end may make another
		t.Errorf("%d dials for 50 connections, want one that all share", got)
	}
	eventually(t, "the tunnels to go", func() bool {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		return len(b.pool.shared) == 0
	})
}

// Connections go on when their peer stops to allow more; others get a tunnel of their own.
func TestPeerThatAllowsNoMoreStreams(t *testing.T) {
	b := newBed(t)
	target := b.target()
	accept := func(p *rawPeer) { p.headers(p.request(), false, ":status", "200") }
	barred := make(chan *rawPeer, 1)
	target.Addr = b.rawServer(func(p *rawPeer) {
		accept(p)
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		barred <- p
	}, accept)
	first, err := b.pool.Connect(t.Context(), target, b.request())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the limit to arrive", func() bool { return first.t.room() == 0 })
	second, err := b.pool.Connect(t.Context(), target, b.request())
	if err != nil || second.t == first.t {
		t.Fatalf("Connect = %v, on the barred tunnel: %v", err, err == nil)
	}
	_ = (<-barred).WriteData(first.id, true, []byte("on"))
	if got, err := io.ReadAll(first.Conn()); err != nil || string(got) != "on" {
		t.Errorf("the first connection got %q, %v", got, err)
	}
	first.Reset()
	second.Reset()
}

// A connection that is joined after its tunnel died still belongs to the pool, which waits for its end.
func TestCloseWaitsForALateJoin(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	s := b.connect()
	b.srv.Close()
	eventually(t, "the tunnel's goroutines to end", func() bool {
		s.t.mu.Lock()
		defer s.t.mu.Unlock()
		return s.t.err != nil && s.t.running == 0
	})
	_, inner := tcpPair(t)
	ending, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.Join(inner, func(relay.Result) {
		close(ending)
		<-release
	})
	<-ending
	go func() {
		b.pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("the pool was closed before the connection had ended")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	<-closed
}

func TestHeadersBeyondThePeersLimit(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	s := b.connect()
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if _, err := s.t.core.Open(Request{Network: string(make([]byte, 70_000))}.fields(), false); !errors.Is(err, h2.ErrHeaderLimit) {
		t.Errorf("Open = %v", err)
	}
}
