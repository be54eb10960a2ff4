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
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:80")

// patience bounds what a test waits for.
const patience = 20 * time.Second

// bed is a client's pool and a server over real sockets, each on a loop of its own, with certificates.
type bed struct {
	tb             testing.TB
	ca             *testca.CA
	client, server *mtls.Credential
	nearLoop       *loop.Loop // the client's
	farLoop        *loop.Loop // the server's
	pool           *Pool
	pools          []*Pool
	srv            *Server
	listener       *net.TCPListener
	quota          *loop.Quota // of all connections of tunnels
	accepts        sync.WaitGroup

	mu       sync.Mutex
	handle   func(*Incoming)
	accepted int
	failures []Failure
}

func newBed(tb testing.TB) *bed {
	tb.Helper()
	checkDescriptors(tb)
	b := &bed{tb: tb, ca: testca.New(tb, "cluster.local"), nearLoop: newLoop(tb), farLoop: newLoop(tb)}
	b.quota = loop.NewSupply(2*plenty).Quota("the test", func(error) {})
	b.client = b.ca.Credential(b.ca.Identity("shop", "client"))
	b.server = b.ca.Credential(b.ca.Identity("shop", "server"))
	b.srv = NewServer(ServerConfig{
		Loop:   b.farLoop,
		TLS:    func(context.Context) (*tls.Config, error) { return mtls.Policy{}.ServerConfig(b.server), nil },
		Handle: func(in *Incoming) { b.handler()(in) },
		Quota:  b.quota,
		Failed: func(f Failure) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.failures = append(b.failures, f)
		},
	})
	b.listener = listen(tb)
	b.pool = b.newPool(PoolConfig{})
	listening := takeFD(b.listener)
	b.onFar(func() {
		if err := b.farLoop.WatchListener(listening, acceptor{b, listening}); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		b.onFar(func() { b.farLoop.Release(listening) })
		b.close()
	})
	return b
}

// close ends everything and waits until nothing is left.
func (b *bed) close() {
	var left sync.WaitGroup
	b.onNear(func() {
		for _, p := range b.pools {
			p.Close()
			resetUnjoined(p.tunnels())
			left.Add(1)
			p.OnGone(left.Done)
		}
	})
	b.onFar(func() {
		b.srv.Close()
		left.Add(1)
		b.srv.OnGone(left.Done)
	})
	b.accepts.Wait()
	gone := make(chan struct{})
	go func() {
		left.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(patience):
		b.tb.Error("tunnels are left")
	}
	eventually(b.tb, "all sockets to be given back", func() bool { return b.quota.Take(plenty) == nil })
}

const plenty = 1 << 20 // sockets

// resetUnjoined ends the streams that a test left as Connect gave them.
func resetUnjoined(tunnels []*tunnel) {
	for _, t := range tunnels {
		for _, s := range t.streams {
			if s.session == nil {
				s.Reset()
			}
		}
	}
}

// checkDescriptors fails the test if it leaves descriptors open.
func checkDescriptors(tb testing.TB) {
	tb.Helper()
	_ = listen(tb).Close() // opens what the runtime itself needs
	before := descriptors(tb)
	tb.Cleanup(func() {
		eventually(tb, "descriptors to be closed", func() bool { return descriptors(tb) <= before })
	})
}

// descriptors counts those that are open, but for pipes: tunnels use none, io.Copy does and keeps them for a while.
func descriptors(tb testing.TB) (n int) {
	const folder = "/proc/self/fd/"
	entries, err := os.ReadDir(folder)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if name, _ := os.Readlink(folder + e.Name()); !strings.HasPrefix(name, "pipe:") {
			n++
		}
	}
	return n
}

// acceptor serves what comes to the bed's listener.
type acceptor struct {
	b  *bed
	fd int
}

func (a acceptor) Ready(loop.Events) {
	for {
		fd, remote, err := socket.Accept(a.fd)
		if err != nil {
			return
		}
		local, err := socket.Local(fd)
		if err != nil {
			a.b.tb.Error(err)
		}
		a.b.mu.Lock()
		a.b.accepted++
		a.b.mu.Unlock()
		a.b.srv.Serve(fd, local, remote)
	}
}

func newLoop(tb testing.TB) *loop.Loop {
	tb.Helper()
	l, err := loop.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(l.Close)
	return l
}

// onNear runs f on the client's loop.
func (b *bed) onNear(f func()) { b.on(b.nearLoop, f) }

// onFar runs f on the server's loop.
func (b *bed) onFar(f func()) { b.on(b.farLoop, f) }

func (b *bed) on(l *loop.Loop, f func()) {
	b.tb.Helper()
	if err := l.Do(f); err != nil {
		b.tb.Error(err)
	}
}

// newPool makes a pool on the client's loop.
func (b *bed) newPool(cfg PoolConfig) *Pool {
	cfg.Loop, cfg.Quota = b.nearLoop, b.quota
	if cfg.Dial == nil {
		cfg.Dial = dialOn(b.nearLoop)
	}
	if cfg.TLS == nil {
		cfg.TLS = func(_ context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.Policy{}.ClientConfig(b.client, expected), nil
		}
	}
	p := NewPool(cfg)
	b.pools = append(b.pools, p)
	return p
}

// dialOn dials as ztunnel does, without any namespace.
func dialOn(l *loop.Loop) func(netip.AddrPort, func(int, error)) (func(), error) {
	return func(addr netip.AddrPort, done func(int, error)) (func(), error) {
		fd, err := new(socket.Visitor).Dial(nil, addr, socket.DialConfig{})
		if err != nil {
			return nil, err
		}
		connecting := l.AwaitConnect(fd, patience, func(err error) {
			if err != nil {
				_ = unix.Close(fd)
				fd = -1
			}
			done(fd, err)
		})
		return func() { connecting.Cancel(); _ = unix.Close(fd) }, nil
	}
}

func (b *bed) handler() func(*Incoming) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.handle
}

// onConnect says how requests are handled, on the server's loop.
func (b *bed) onConnect(handle func(*Incoming)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handle = handle
}

// tunnels returns how many tunnels the server has seen.
func (b *bed) tunnels() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

func (b *bed) target() Target {
	return Target{
		Source: b.client.Identity, Expected: []identity.Workload{b.server.Identity},
		Addr: b.listener.Addr().(*net.TCPAddr).AddrPort(),
	}
}

func (b *bed) request() Request {
	return Request{Authority: AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.1:80")), Trace: trace.New()}
}

// connect connects through the bed's pool to its server.
func (b *bed) connect() *Stream {
	b.tb.Helper()
	s, err := connect(b.pool, b.target(), b.request())
	if err != nil {
		b.tb.Fatal(err)
	}
	return s
}

// connect is Pool.Connect for those who may wait.
func connect(p *Pool, target Target, request Request) (*Stream, error) {
	type outcome struct {
		stream *Stream
		err    error
	}
	done := make(chan outcome, 1)
	var attempt *Attempt
	_ = p.cfg.Loop.Do(func() { attempt = p.Connect(target, request, func(s *Stream, err error) { done <- outcome{s, err} }) })
	select {
	case o := <-done:
		return o.stream, o.err
	case <-time.After(patience):
		_ = p.cfg.Loop.Do(attempt.Cancel)
		return nil, errors.New("the test's patience is over")
	}
}

// join joins a stream with the inner end of an application's connection; it may be called from any thread but a loop's.
func join(s *Stream, app *net.TCPConn) (*relay.Session, chan relay.Result) {
	done := make(chan relay.Result, 2)
	var session *relay.Session
	_ = s.t.loop.Do(func() { session = joinHere(s, app, done) })
	return session, done
}

// joinHere is join on the stream's loop.
func joinHere(s *Stream, app *net.TCPConn, done chan relay.Result) *relay.Session {
	return s.Join(takeFD(app), func(r relay.Result) { done <- r })
}

// reset resets a stream from outside its loop.
func reset(s *Stream) { _ = s.t.loop.Do(s.Reset) }

// ends is both ends of a tunnelled connection as the two applications have them.
type ends struct {
	near, far       *net.TCPConn
	nearEnd, farEnd chan relay.Result
	session         *relay.Session
}

// tunnelled makes a connection from an application through both sides to another.
func (b *bed) tunnelled() *ends {
	b.tb.Helper()
	e := &ends{farEnd: make(chan relay.Result, 2)}
	far, farInner := tcpPair(b.tb)
	near, nearInner := tcpPair(b.tb)
	e.near, e.far = near, far
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			b.tb.Error(err)
			return
		}
		joinHere(s, farInner, e.farEnd)
	})
	e.session, e.nearEnd = join(b.connect(), nearInner)
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

// takeFD takes the descriptor out of a connection or listener, which is closed.
func takeFD(c interface {
	io.Closer
	SyscallConn() (syscall.RawConn, error)
}) (fd int) {
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	}
	if err != nil {
		panic(err)
	}
	_ = c.Close()
	return fd
}

// tcpPair makes a connected pair; both are closed at the test's end.
func tcpPair(tb testing.TB) (a, b *net.TCPConn) {
	tb.Helper()
	l := listen(tb)
	defer func() { _ = l.Close() }()
	a, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
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
	_, err := connect(b.pool, b.target(), b.request())
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

// eventually waits for a condition that another thread brings about.
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
