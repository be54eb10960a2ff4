package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 20 * time.Second

// bed is a client's pool and a server over real sockets, with certificates.
type bed struct {
	tb             testing.TB
	ca             *testca.CA
	client, server *mtls.Credential
	pool           *Pool
	srv            *Server
	listener       *net.TCPListener
	accepts        sync.WaitGroup

	mu       sync.Mutex
	handle   func(*Incoming)
	conns    []*net.TCPConn // accepted by the server, in order
	failures []Failure
}

func newBed(tb testing.TB) *bed {
	tb.Helper()
	b := &bed{tb: tb, ca: testca.New(tb, "cluster.local")}
	b.client = b.ca.Credential(b.ca.Identity("shop", "client"))
	b.server = b.ca.Credential(b.ca.Identity("shop", "server"))
	b.srv = NewServer(ServerConfig{
		TLS:    func(context.Context) (*tls.Config, error) { return mtls.ServerConfig(b.server), nil },
		Handle: func(in *Incoming) { b.handler()(in) },
		Failed: func(f Failure) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.failures = append(b.failures, f)
		},
	})
	b.listener = listen(tb)
	b.pool = b.newPool(PoolConfig{})
	b.accepts.Go(func() {
		for {
			conn, err := b.listener.AcceptTCP()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, conn)
			b.mu.Unlock()
			b.srv.Serve(conn)
		}
	})
	tb.Cleanup(func() {
		b.pool.Close()
		_ = b.listener.Close()
		b.accepts.Wait()
		b.srv.Close()
	})
	return b
}

func (b *bed) newPool(cfg PoolConfig) *Pool {
	cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) { return dialTCP(ctx, addr) }
	cfg.TLS = func(_ context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error) {
		return mtls.ClientConfig(b.client, expected), nil
	}
	return NewPool(cfg)
}

func (b *bed) handler() func(*Incoming) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.handle
}

func (b *bed) onConnect(handle func(*Incoming)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handle = handle
}

// tunnels returns how many tunnels the server has seen.
func (b *bed) tunnels() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

func (b *bed) target() Target {
	return Target{
		Source: b.client.Identity, Expected: []identity.Workload{b.server.Identity},
		Addr: b.listener.Addr().(*net.TCPAddr).AddrPort(),
	}
}

func (b *bed) request() Request {
	return Request{Authority: AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.1:80")), Trace: NewTraceParent()}
}

func (b *bed) connect() *Stream {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := b.pool.Connect(ctx, b.target(), b.request())
	if err != nil {
		b.tb.Fatal(err)
	}
	return s
}

// ends is both ends of a tunnelled connection as the two applications have them.
type ends struct {
	near, far       *net.TCPConn
	nearEnd, farEnd chan relay.Result
	session         *relay.Session
}

// tunnelled makes a connection from an application through both sides to another.
func (b *bed) tunnelled() *ends {
	b.tb.Helper()
	e := &ends{nearEnd: make(chan relay.Result, 1), farEnd: make(chan relay.Result, 1)}
	far, farInner := tcpPair(b.tb)
	near, nearInner := tcpPair(b.tb)
	e.near, e.far = near, far
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			b.tb.Error(err)
			return
		}
		s.Join(farInner, func(r relay.Result) { e.farEnd <- r })
	})
	e.session = b.connect().Join(nearInner, func(r relay.Result) { e.nearEnd <- r })
	return e
}

func listen(tb testing.TB) *net.TCPListener {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func dialTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// tcpPair makes a connected pair; both are closed at the test's end.
func tcpPair(tb testing.TB) (a, b *net.TCPConn) {
	tb.Helper()
	l := listen(tb)
	defer func() { _ = l.Close() }()
	a, err := dialTCP(context.Background(), l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		tb.Fatal(err)
	}
	if b, err = l.AcceptTCP(); err != nil {
		tb.Fatal(err)
	}
	for _, c := range []*net.TCPConn{a, b} {
		_ = c.SetDeadline(time.Now().Add(patience))
		tb.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

func result(tb testing.TB, c chan relay.Result) relay.Result {
	tb.Helper()
	select {
	case r := <-c:
		return r
	case <-time.After(patience):
		tb.Fatal("the relay does not end")
		return relay.Result{}
	}
}

// noise is reproducible content that is alike nowhere.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(p)
	return p
}

func TestContentArrivesBothWays(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	up, down := noise(64<<20, 1), noise(64<<20, 2)
	var wg sync.WaitGroup
	send := func(c *net.TCPConn, p []byte) {
		if _, err := c.Write(p); err != nil {
			t.Error(err)
		}
		_ = c.CloseWrite()
	}
	expect := func(c *net.TCPConn, want []byte) {
		if err := same(c, want); err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() { send(e.near, up) })
	wg.Go(func() { send(e.far, down) })
	wg.Go(func() { expect(e.far, up) })
	expect(e.near, down)
	wg.Wait()
	want := relay.Result{Sent: uint64(len(up)), Received: uint64(len(down))}
	if got := result(t, e.nearEnd); got != want {
		t.Errorf("near result %+v, want %+v", got, want)
	}
	want.Sent, want.Received = want.Received, want.Sent
	if got := result(t, e.farEnd); got != want {
		t.Errorf("far result %+v, want %+v", got, want)
	}
}

func TestRefusalGivesTheStatus(t *testing.T) {
	b := newBed(t)
	b.onConnect(func(in *Incoming) { in.Refuse(401) })
	_, err := b.pool.Connect(t.Context(), b.target(), b.request())
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 401 {
		t.Errorf("Connect = %v, want status 401", err)
	}
}

// same reads until FIN and tells where the content differs from what it should be.
func same(r io.Reader, want []byte) error {
	p := make([]byte, 64<<10)
	for at := 0; ; {
		n, err := r.Read(p)
		if n > len(want)-at || !bytes.Equal(p[:n], want[at:at+n]) {
			return fmt.Errorf("other content within the %d bytes after %d", n, at)
		}
		at += n
		switch {
		case err == io.EOF && at == len(want):
			return nil
		case err != nil:
			return fmt.Errorf("%d bytes of %d, then %w", at, len(want), err)
		}
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	tick, over := time.NewTicker(time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-over:
			tb.Fatalf("waited %v for %s", patience, what)
		}
	}
}
