package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/record"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// clockwork is a loop in fake time: the test is its thread, and hours pass as soon as nothing is to be done.
type clockwork struct {
	t    *testing.T
	loop *loop.Loop
	each func() // what others do after each turn; it may be nil
}

func newClockwork(t *testing.T) *clockwork {
	t.Helper()
	l, err := loop.Manual()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &clockwork{t: t, loop: l}
}

// every has f called every d, until the returned function is.
func (c *clockwork) every(d time.Duration, f func()) (stop func()) {
	tick := new(loop.Timer)
	tick.Run = func() {
		f()
		c.loop.After(tick, d)
	}
	c.loop.After(tick, d)
	return func() { c.loop.Stop(tick) }
}

// settle turns until nothing happens, and returns how long nothing will.
func (c *clockwork) settle() time.Duration {
	for quiet := 0; ; {
		wait := c.loop.Turn()
		if c.each != nil {
			c.each()
		}
		synctest.Wait()
		if quiet++; wait == 0 {
			quiet = 0
		}
		if quiet == 3 {
			return wait
		}
	}
}

// pass lets d pass.
func (c *clockwork) pass(d time.Duration) {
	end := time.Now().Add(d)
	c.until(func() bool { return !time.Now().Before(end) }, d)
}

// until lets time pass until something has come about, for d at the most.
func (c *clockwork) until(condition func() bool, d time.Duration) {
	end := time.Now().Add(d)
	for {
		wait := c.settle()
		left := time.Until(end)
		if condition() || left <= 0 {
			return
		}
		if wait < 0 || wait > left {
			wait = left
		}
		time.Sleep(wait)
	}
}

// scripted is a client's tunnel whose peer is played by the test, frame by frame.
type scripted struct {
	*clockwork
	*http2.Framer // what it writes is sent by say
	tunnel        *tunnel
	gone          time.Time // when ended was called
	fd            int       // the peer's end
	reader        *record.Reader
	writer        *record.Writer
	in, out       bytes.Buffer
	closed        error // why nothing more comes
}

func newScripted(t *testing.T, cfg tunnelConfig) *scripted {
	t.Helper()
	own, peer := socketPair()
	return newScriptedOver(t, cfg, own, peer)
}

// newScriptedOver is newScripted on connected sockets.
func newScriptedOver(t *testing.T, cfg tunnelConfig, own, peer int) *scripted {
	t.Helper()
	s := &scripted{clockwork: newClockwork(t), fd: peer}
	s.Framer = http2.NewFramer(&s.out, &s.in)
	cfg.loop = s.loop
	if cfg.max == 0 {
		cfg.max = 10
	}
	cfg.ended = func(*tunnel) { s.gone = time.Now() }
	keys := record.Result{}
	keys.Reader, s.writer = oneWay(t, 1)
	s.reader, keys.Writer = oneWay(t, 2)
	s.tunnel = newTunnel(cfg, own, shaken{keys: &keys})
	t.Cleanup(func() {
		s.hangUp()
		s.tunnel.cut(errClosed)
		s.pass(2 * closeTimeout)
		if s.gone.IsZero() {
			t.Error("the tunnel never ended")
		}
	})
	s.settle()
	if got := s.hear(); len(got) < len(http2.ClientPreface) {
		t.Fatalf("the tunnel begins with %q", got)
	}
	s.in.Next(len(http2.ClientPreface))
	return s
}

// oneWay makes both ends of one direction.
func oneWay(t *testing.T, seed byte) (*record.Reader, *record.Writer) {
	t.Helper()
	state := record.State{Suite: tls.TLS_AES_128_GCM_SHA256, Secret: bytes.Repeat([]byte{seed}, 32)}
	r, err := record.NewReader(state, record.Server)
	if err != nil {
		t.Fatal(err)
	}
	w, err := record.NewWriter(state)
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func (s *scripted) hangUp() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// say sends what the framer has written.
func (s *scripted) say() {
	s.t.Helper()
	var sealed []byte
	for s.out.Len() > 0 {
		p := make([]byte, record.SlotLen)
		n := copy(p[record.HeaderLen:], s.out.Next(record.MaxPlaintext))
		sealed = append(sealed, p[:s.writer.Seal(p, n)]...)
	}
	if len(sealed) > 0 {
		s.send(sealed)
	}
}

func (s *scripted) send(p []byte) {
	s.t.Helper()
	if n, err := loop.Write(s.fd, p); n != len(p) {
		s.t.Fatalf("the peer can't send: %v", err)
	}
}

// hear takes what the tunnel has sent into the framer's input and returns what it has there.
func (s *scripted) hear() []byte {
	s.t.Helper()
	var sealed []byte
	p := make([]byte, loop.BufferSize)
	for s.closed == nil {
		n, err := loop.Read(s.fd, p)
		if err == unix.EAGAIN {
			break
		}
		if n == 0 || err != nil {
			s.closed = errors.Join(io.EOF, err)
			break
		}
		sealed = append(sealed, p[:n]...)
	}
	for len(sealed) > 0 {
		n, err := s.reader.Next(sealed)
		if err != nil || n == 0 {
			s.t.Fatalf("the tunnel sends no whole record: %d bytes, %v", len(sealed), err)
		}
		plain, err := s.reader.Open(sealed[:n])
		if err != nil && !errors.Is(err, io.EOF) {
			s.t.Fatal(err)
		}
		s.in.Write(plain)
		sealed = sealed[n:]
	}
	return s.in.Bytes()
}

// answer has the peer read all and answer pings while it is told to.
func (s *scripted) answer(alive func() bool) {
	s.each = func() {
		for s.hear(); s.in.Len() > 0; {
			f, err := s.ReadFrame()
			if err != nil {
				s.t.Fatal(err)
			}
			if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() && alive() {
				_ = s.WritePing(true, ping.Data)
				s.say()
			}
		}
	}
}

func always() bool { return true }

// lifetime waits for the tunnel's end and returns how long it lived and why it ended.
func (s *scripted) lifetime() (time.Duration, error) {
	s.until(func() bool { return s.tunnel.err != nil }, 24*time.Hour)
	return time.Since(s.tunnel.born), s.tunnel.err
}

// pair is a client's pool and a server on one loop in fake time, over sockets that deliver at once.
type pair struct {
	*clockwork
	ca       *testca.CA
	client   *mtls.Credential // of tunnels from now on
	server   *mtls.Credential
	pool     *Pool
	srv      *Server
	handle   func(*Incoming)
	failures []Failure
	target   Target
	request  Request
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ca := testca.New(t, "cluster.local")
	addr := netip.MustParseAddrPort("10.0.0.2:15008")
	p := &pair{clockwork: newClockwork(t), ca: ca}
	p.client, p.server = ca.Credential(ca.Identity("shop", "client")), ca.Credential(ca.Identity("shop", "server"))
	p.target = Target{Source: p.client.Identity, Expected: []identity.Workload{p.server.Identity}, Addr: addr}
	p.request = Request{Authority: AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.2:80"))}
	p.srv = NewServer(ServerConfig{
		Loop:   p.loop,
		TLS:    func(context.Context) (*tls.Config, error) { return mtls.Policy{}.ServerConfig(p.server), nil },
		Handle: func(in *Incoming) { p.handle(in) },
		Failed: func(f Failure) { p.failures = append(p.failures, f) },
	})
	p.pool = NewPool(PoolConfig{
		Loop: p.loop,
		Dial: func(to netip.AddrPort, done func(int, error)) (func(), error) {
			near, far := socketPair()
			p.srv.Serve(far, to, netip.MustParseAddrPort("10.0.0.1:1000"))
			_ = p.loop.Post(func() { done(near, nil) })
			return func() {}, nil
		},
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.Policy{}.ClientConfig(p.client, expected), nil
		},
	})
	t.Cleanup(func() {
		p.each = nil
		p.pool.Close()
		p.srv.Close()
		resetUnjoined(p.pool.tunnels())
		p.pass(2 * closeTimeout)
		if len(p.pool.shared) != 0 || len(p.srv.tunnels) != 0 || len(p.srv.handshakes) != 0 {
			t.Error("tunnels or handshakes are left")
		}
	})
	return p
}

// end is what an application has of a connection.
type end struct {
	*pair
	app int
}

// joined makes a connection through a pair, in real time if the test is.
func (p *pair) joined() (near, far end) {
	t := p.t
	near.pair, far.pair = p, p
	p.handle = func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			t.Error(err)
			return
		}
		var inner int
		inner, far.app = socketPair()
		s.Join(inner, func(relay.Result) {})
	}
	s, err := p.connect()
	if err != nil {
		t.Fatal(err)
	}
	var inner int
	inner, near.app = socketPair()
	s.Join(inner, func(relay.Result) {})
	p.loop.Turn()
	t.Cleanup(func() {
		_ = unix.Close(near.app)
		_ = unix.Close(far.app)
	})
	return near, far
}

// connect connects, and lets the time pass that it takes.
func (p *pair) connect() (s *Stream, err error) {
	done := false
	p.pool.Connect(p.target, p.request, func(stream *Stream, failure error) { s, err, done = stream, failure, true })
	p.until(func() bool { return done }, time.Hour)
	if !done {
		p.t.Fatal("Connect takes for ever")
	}
	return s, err
}
