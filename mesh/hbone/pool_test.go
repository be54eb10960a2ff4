package hbone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// accepting has the server accept everything and keep it open, for an application that says nothing.
func accepting(in *Incoming) {
	s, err := in.Accept(Baggage{})
	if err != nil {
		return
	}
	inner, outer := socketPair()
	s.Join(inner, func(relay.Result) { _ = unix.Close(outer) })
}

// socketPair makes two connected descriptors, on which all that one end does is seen by the other at once.
func socketPair() (a, b int) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return pair[0], pair[1]
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
	reset(streams[0])
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
			s, err := connect(b.pool, b.target(), b.request())
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
		if _, err := connect(b.pool, target, b.request()); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.tunnels(); got != 3 {
		t.Errorf("%d tunnels, want 3: one for each source and each set of expected identities", got)
	}
	// Nobody there proves to be the alias, and that others are connected changes nothing.
	target := b.target()
	target.Expected = []identity.Workload{b.ca.Identity("shop", "alias")}
	if _, err := connect(b.pool, target, b.request()); err == nil {
		t.Error("who expects somebody else gets a tunnel that was made for others")
	}
}

// Those who wait for a dial share its failure; nobody waits for the failures of others one after another.
func TestOneFailureForAllWhoWait(t *testing.T) {
	b := newBed(t)
	var dials []func(int, error)
	cause := errors.New("no route")
	pool := b.newPool(PoolConfig{Dial: func(_ netip.AddrPort, done func(int, error)) (func(), error) {
		dials = append(dials, done)
		return func() {}, nil
	}})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := connect(pool, b.target(), b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != StageConnect || !errors.Is(err, cause) {
				t.Errorf("Connect = %v", err)
			}
		})
	}
	b.waiting(pool, 50)
	b.onNear(func() { dials[0](-1, cause) })
	wg.Wait()
	if len(dials) != 1 {
		t.Errorf("%d dials for 50 who waited, want 1", len(dials))
	}
	if len(pool.shared) != 0 {
		t.Error("the pool remembers a target that it has no tunnel to")
	}
}

// waiting waits until so many wait for a dial.
func (b *bed) waiting(pool *Pool, n int) {
	b.tb.Helper()
	eventually(b.tb, "connects to wait", func() bool {
		waiting := 0
		b.onNear(func() {
			for _, sh := range pool.shared {
				for _, d := range sh.dials {
					waiting += len(d.waiters)
				}
			}
		})
		return waiting == n
	})
}

// The certificate is looked for, and keys are made, while the connection is.
func TestHelloIsMadeWhileConnecting(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	asked := make(chan struct{})
	dial := dialOn(b.nearLoop)
	pool := b.newPool(PoolConfig{
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			close(asked)
			return mtls.Policy{}.ClientConfig(b.client, expected), nil
		},
		Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
			return dial(addr, func(fd int, err error) {
				select {
				case <-asked:
				case <-time.After(patience):
					t.Error("the handshake waits for the connection")
				}
				done(fd, err)
			})
		},
	})
	stream, err := connect(pool, b.target(), b.request())
	if err != nil {
		t.Fatal(err)
	}
	b.onNear(stream.Reset)
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
				return mtls.Policy{}.ClientConfig(other, expected), nil
			}
		}, StageTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, cfg := b.target(), PoolConfig{}
			test.change(&target, &cfg)
			pool := b.newPool(cfg)
			_, err := connect(pool, target, b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != test.want || dial.Addr != target.Addr {
				t.Errorf("Connect = %v, want stage %q", err, test.want)
			}
		})
	}
}

func TestCancelGivesTheRequestUp(t *testing.T) {
	b := newBed(t)
	asked, gone := make(chan struct{}), make(chan error, 1)
	b.onConnect(func(in *Incoming) {
		in.OnGone(func() {
			_, err := in.Accept(Baggage{})
			in.OnGone(func() { gone <- err }) // one who asks late hears at once
		})
		close(asked)
	})
	var attempt *Attempt
	b.onNear(func() {
		attempt = b.pool.Connect(b.target(), b.request(), func(_ *Stream, err error) { t.Errorf("cancelled, then told of %v", err) })
	})
	<-asked
	b.onNear(attempt.Cancel)
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
	s, err := connect(pool, b.target(), b.request())
	if err != nil {
		t.Fatal(err)
	}
	reset(s)
	eventually(t, "an idle tunnel to end", func() (none bool) {
		b.onNear(func() { none = len(pool.shared) == 0 })
		return none
	})
	if _, err := connect(pool, b.target(), b.request()); err != nil {
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
	var held []func()
	dials, dial := 0, dialOn(b.nearLoop)
	pool := b.newPool(PoolConfig{Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
		if dials++; dials == 1 {
			held = append(held, func() { _, _ = dial(addr, done) })
			return func() {}, nil
		}
		return dial(addr, done)
	}})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := connect(pool, target, b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != StageHTTP2 || !errors.Is(err, errNoStreams) {
				t.Errorf("Connect = %v, want %v", err, errNoStreams)
			}
		})
	}
	b.waiting(pool, 50)
	b.onNear(func() { held[0]() })
	wg.Wait()
	if dials != 1 {
		t.Errorf("%d dials for 50 connections, want one that all share", dials)
	}
	eventually(t, "the tunnels to go", func() (none bool) {
		b.onNear(func() { none = len(pool.shared) == 0 })
		return none
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
	first, err := connect(b.pool, target, b.request())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the limit to arrive", func() (barred bool) {
		b.onNear(func() { barred = first.t.room() == 0 })
		return barred
	})
	second, err := connect(b.pool, target, b.request())
	if err != nil || second.t == first.t {
		t.Fatalf("Connect = %v, on the barred tunnel: %v", err, err == nil)
	}
	_ = (<-barred).WriteData(first.id, true, []byte("on"))
	app, inner := tcpPair(t)
	join(first, inner)
	if got, err := io.ReadAll(app); err != nil || string(got) != "on" {
		t.Errorf("the first connection got %q, %v", got, err)
	}
}

// A connection that is joined after its tunnel died is told so, and the pool knows the tunnel until then.
func TestLateJoinOfADeadTunnel(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	s := b.connect()
	b.onFar(b.srv.Close)
	eventually(t, "the tunnel to die", func() (dead bool) {
		b.onNear(func() { dead = s.t.closed })
		return dead
	})
	b.onNear(func() {
		if len(b.pool.shared) != 1 {
			t.Error("the pool forgot a tunnel that has a stream")
		}
	})
	app, inner := tcpPair(t)
	_, done := join(s, inner)
	if r := result(t, done); r.Err == nil {
		t.Errorf("result %+v", r)
	}
	if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application reads %v, want a reset", err)
	}
	eventually(t, "the pool to forget it", func() (none bool) {
		b.onNear(func() { none = len(b.pool.shared) == 0 })
		return none
	})
}

// Whoever hears of a dial's outcome first may cancel another who waits for the same.
func TestCancelWithinAnOutcome(t *testing.T) {
	b := newBed(t)
	var end func(int, error)
	pool := b.newPool(PoolConfig{Dial: func(_ netip.AddrPort, done func(int, error)) (func(), error) {
		end = done
		return func() {}, nil
	}})
	told := 0
	b.onNear(func() {
		attempts := make([]*Attempt, 10)
		for i := range attempts {
			attempts[i] = pool.Connect(b.target(), b.request(), func(*Stream, error) {
				told++
				attempts[(i+1)%len(attempts)].Cancel()
				attempts[(i+9)%len(attempts)].Cancel()
			})
		}
		end(-1, errors.New("no route"))
	})
	if told != 5 {
		t.Errorf("%d of 10 were told, want every other", told)
	}
}

// Close tells all who wait, at whatever stage they are.
func TestCloseOfAPoolTellsThoseWhoWait(t *testing.T) {
	b := newBed(t)
	silent := listen(t) // its side never says a word, so the handshake waits
	asked := make(chan struct{}, 1)
	b.onConnect(func(in *Incoming) { asked <- struct{}{} })
	cancelled := false
	dial := dialOn(b.nearLoop)
	pool := b.newPool(PoolConfig{Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
		if addr.Port() == 1 {
			return func() { cancelled = true }, nil
		}
		return dial(addr, done)
	}})
	outcomes := make(chan error, 4)
	for _, addr := range []netip.AddrPort{b.target().Addr, silent.Addr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:1")} {
		target := b.target()
		target.Addr = addr
		b.onNear(func() { pool.Connect(target, b.request(), func(_ *Stream, err error) { outcomes <- err }) })
	}
	<-asked
	shaking, err := silent.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shaking.Close() }()
	if _, err := io.ReadFull(shaking, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	b.onNear(pool.Close)
	if !cancelled {
		t.Error("the dial under way goes on")
	}
	b.onNear(func() { pool.Connect(b.target(), b.request(), func(_ *Stream, err error) { outcomes <- err }) })
	for range 4 {
		if err := <-outcomes; !errors.Is(err, errClosed) {
			t.Errorf("Connect = %v, want %v", err, errClosed)
		}
	}
}

// A tunnel of a socket that the caller made carries one stream, and ends with it.
func TestConnectOver(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	over := func(giveUp bool) (*Stream, error) {
		conn, err := net.DialTCP("tcp4", nil, b.listener.Addr().(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		fd := takeFD(conn)
		type outcome struct {
			s   *Stream
			err error
		}
		done := make(chan outcome, 1)
		b.onNear(func() {
			a := b.pool.ConnectOver(fd, b.target(), b.request(), func(s *Stream, err error) { done <- outcome{s, err} })
			if giveUp {
				a.Cancel()
				done <- outcome{}
			}
		})
		o := <-done
		return o.s, o.err
	}
	none := func() bool {
		left := 0
		b.onNear(func() { left = len(b.pool.tunnels()) + len(b.pool.dials()) })
		return left == 0
	}
	first, err := over(false)
	if err != nil {
		t.Fatal(err)
	}
	second, err := over(false)
	if err != nil || first.t == second.t {
		t.Fatalf("ConnectOver = %v, on the other's tunnel: %v", err, err == nil)
	}
	if shared := b.connect(); shared.t == first.t || shared.t == second.t {
		t.Error("the tunnel is used by another")
	} else {
		reset(shared)
		b.onNear(func() { shared.t.shutdown() })
	}
	reset(first)
	reset(second)
	eventually(t, "the tunnels to end with their streams", none)
	_, _ = over(true)
	eventually(t, "the tunnel that nobody wants to end", none)
	b.onNear(b.pool.Close)
	if _, err := over(false); !errors.Is(err, errClosed) {
		t.Errorf("ConnectOver of a closed pool = %v", err)
	}
}

func TestHeadersBeyondThePeersLimit(t *testing.T) {
	b := newBed(t)
	b.onConnect(accepting)
	b.connect()
	request := b.request()
	request.Network = string(make([]byte, 70_000))
	if _, err := connect(b.pool, b.target(), request); !errors.Is(err, h2.ErrHeaderLimit) {
		t.Errorf("Connect = %v", err)
	}
	b.connect()
	if n := b.tunnels(); n != 1 {
		t.Errorf("%d tunnels; the failure cost one", n)
	}
}

// A tunnel whose target isn't wanted any more takes no new connections and lets those that run end.
func TestRetain(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	b.onNear(func() { b.pool.Retain(func(Target) bool { return true }) })
	first := clientTunnel(b)
	b.onConnect(accepting)
	if b.connect(); b.tunnels() != 1 {
		t.Error("a tunnel that is wanted was ended")
	}
	b.onNear(func() { b.pool.Retain(func(target Target) bool { return target.Addr != b.target().Addr }) })
	exchange(t, e)
	if s := b.connect(); s.t == first {
		t.Error("a new connection came on the tunnel that isn't wanted")
	}
	_ = e.near.CloseWrite()
	_ = e.far.CloseWrite()
	if r := result(t, e.nearEnd); r.Err != nil {
		t.Errorf("result %+v", r)
	}
	b.onNear(func() { resetUnjoined([]*tunnel{first}) })
	eventually(t, "the tunnel to end with its last stream", func() (gone bool) {
		b.onNear(func() { gone = first.gone })
		return gone
	})
}

// A revoked certificate ends what runs on it, on either side, and the connection says why.
func TestCutByCertificate(t *testing.T) {
	revoked := errors.New("revoked")
	for name, cut := range map[string]func(*bed, Check){
		"the server's, by the client": func(b *bed, check Check) { b.onNear(func() { b.pool.Cut(check) }) },
		"the client's, by the server": func(b *bed, check Check) { b.onFar(func() { b.srv.Cut(check) }) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			e := b.tunnelled()
			exchange(t, e)
			seen := ""
			cut(b, func(chain []*x509.Certificate) error {
				seen = chain[0].URIs[0].String()
				return nil
			})
			exchange(t, e)
			cut(b, func([]*x509.Certificate) error { return revoked })
			near, far := result(t, e.nearEnd), result(t, e.farEnd)
			byClient := seen == b.server.Identity.String()
			if !byClient && seen != b.client.Identity.String() {
				t.Errorf("the certificate of %q was checked", seen)
			}
			if byClient != errors.Is(near.Err, revoked) || byClient == errors.Is(far.Err, revoked) || near.Err == nil || far.Err == nil {
				t.Errorf("results %v and %v", near.Err, far.Err)
			}
			for _, c := range []*net.TCPConn{e.near, e.far} {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("an application reads %v, want a reset", err)
				}
			}
			b.onConnect(accepting)
			if b.connect(); b.tunnels() != 2 {
				t.Errorf("%d tunnels, want a second", b.tunnels())
			}
		})
	}
}

// A tunnel that has more to send than its connection takes is no place for others: the next ones get another.
func TestBusyTunnelGetsCompany(t *testing.T) {
	b := newBed(t)
	answer := func(p *rawPeer) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		_ = p.WriteWindowUpdate(0, 1<<30)
		p.headers(p.request(), false, ":status", "200")
	}
	target := b.target()
	target.Addr = b.rawServer(answer, answer) // the first connection reads no more after its answer, as when it is congested
	stalled, err := connect(b.pool, target, b.request())
	if err != nil {
		t.Fatal(err)
	}
	near, inner := tcpPair(t)
	b.onNear(func() { stalled.Join(takeFD(inner), func(relay.Result) {}) })
	var writer sync.WaitGroup
	defer writer.Wait()
	defer func() { _ = near.Close() }()
	writer.Go(func() {
		for chunk := make([]byte, 1<<20); ; {
			if _, err := near.Write(chunk); err != nil {
				return
			}
		}
	})
	eventually(t, "the tunnel to be busy", func() (busy bool) {
		b.onNear(func() { busy = stalled.t.blocked })
		return busy
	})
	b.onNear(func() { b.pool.Connect(target, b.request(), func(*Stream, error) {}) }) // has no better place, and waits
	eventually(t, "another tunnel", func() (there bool) {
		b.onNear(func() {
			for _, sh := range b.pool.shared {
				there = len(sh.tunnels) == 2
			}
		})
		return there
	})
	next, err := connect(b.pool, target, b.request())
	if err != nil {
		t.Fatal(err)
	}
	if next.t == stalled.t {
		t.Error("the busy tunnel is used although there is another")
	}
	b.onNear(next.Reset)
}
