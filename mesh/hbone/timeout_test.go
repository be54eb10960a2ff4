package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
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

func TestPeerWithoutSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		s.answer(always)
		var told error
		stream, err := s.tunnel.open(Request{}.fields())
		if err != nil {
			t.Fatal(err)
		}
		stream.waiting = &Attempt{stream: stream, done: func(_ *Stream, err error) { told = err }}
		if age, err := s.lifetime(); age != settingsTimeout || !errors.Is(err, errSettings) {
			t.Errorf("the tunnel ended after %v with %v", age, err)
		}
		var dial *DialError
		if !errors.As(told, &dial) || dial.Stage != StageHTTP2 || !errors.Is(told, errSettings) {
			t.Errorf("the request got %v", told)
		}
	})
}

func TestPingsKeepATunnelAndFindADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		_ = s.WriteSettings()
		s.say()
		dies := time.Now().Add(time.Hour)
		s.answer(func() bool { return time.Now().Before(dies) })
		age, err := s.lifetime()
		if dead := age - time.Hour; dead < pingTimeout || dead > pingTimeout+pingInterval || !errors.Is(err, errPing) {
			t.Errorf("the tunnel ended %v after its peer, with %v", dead, err)
		}
	})
}

// A peer that takes nothing off its socket is found dead, though everything waits for it; what waits is given back.
func TestPeerThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		_ = s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = s.WriteWindowUpdate(0, 1<<30)
		s.say()
		s.settle()
		stream, err := s.tunnel.open(Request{}.fields())
		if err != nil {
			t.Fatal(err)
		}
		stream.waiting, stream.answered = nil, true
		inner, outer := socketPair()
		defer func() { _ = unix.Close(outer) }()
		var end relay.Result
		stream.Join(inner, func(r relay.Result) { end = r })
		s.each = func() { // the application sends as much as it can
			for p := make([]byte, 64<<10); ; {
				if _, err := loop.Write(outer, p); err != nil {
					return
				}
			}
		}
		s.settle()
		if !s.tunnel.blocked {
			t.Error("the tunnel's socket took everything")
		}
		age, err := s.lifetime()
		if age < pingTimeout || age > pingInterval+pingTimeout || !errors.Is(err, errPing) {
			t.Errorf("the tunnel ended after %v with %v", age, err)
		}
		s.each = nil
		s.pass(2 * closeTimeout)
		if end.Err == nil || !s.tunnel.closed || s.tunnel.held != nil || s.tunnel.unsent != nil {
			t.Errorf("the connection ended with %+v, the tunnel holds %d bytes", end, len(s.tunnel.unsent))
		}
	})
}

func TestIdleEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{idle: 5 * time.Minute})
		_ = s.WriteSettings()
		s.say()
		s.answer(always)
		stream, err := s.tunnel.open(Request{}.fields())
		if err != nil {
			t.Fatal(err)
		}
		s.pass(time.Hour)
		if s.tunnel.err != nil {
			t.Fatalf("a tunnel with a stream ended: %v", s.tunnel.err)
		}
		s.loop.Turn()
		idle := time.Now()
		stream.Reset()
		_, err = s.lifetime()
		if after := time.Since(idle); after != 5*time.Minute || !errors.Is(err, errIdle) {
			t.Errorf("the tunnel ended after %v without streams, with %v", after, err)
		}
	})
}

// The peer broke the connection, with an alert before: the alert is why the tunnel ended, though writing failed first.
func TestAlertIsReadAfterAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		s.send(s.writer.AppendAlert(nil, 42))
		s.hangUp()
		s.tunnel.send() // as a stream would have it
		s.tunnel.core.Ping(1)
		s.tunnel.send()
		if s.tunnel.writeErr == nil || s.tunnel.err != nil {
			t.Fatalf("writing ended with %v, the tunnel with %v", s.tunnel.writeErr, s.tunnel.err)
		}
		if _, err := s.lifetime(); stageOf(err) != StageTLS {
			t.Errorf("the tunnel ended with %v, want the alert", err)
		}
	})
}

// A peer that breaks off right behind its last words is missed at once, not when it should answer a ping.
func TestEndThatComesWithData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		_ = s.WriteSettings()
		s.say()
		s.hangUp()
		if age, err := s.lifetime(); age != 0 || !s.tunnel.core.Settled() {
			t.Errorf("the tunnel ended after %v with %v, settings heard: %v", age, err, s.tunnel.core.Settled())
		}
	})
}

// A peer that doesn't end when we have is left after a second; until then it may send what it likes.
func TestDeadTunnelIsClosedAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		_ = s.WriteSettings()
		s.say()
		s.settle()
		died := time.Now()
		s.tunnel.cut(errors.New("policy"))
		stop := s.every(100*time.Millisecond, func() {
			if s.gone.IsZero() {
				_ = s.WritePing(false, [8]byte{1})
				s.say()
			}
		})
		s.until(func() bool { return !s.gone.IsZero() }, time.Minute)
		stop()
		if after := s.gone.Sub(died); after != closeTimeout {
			t.Errorf("the socket was closed after %v", after)
		}
		s.hear()
		if got := s.in.Bytes(); s.closed == nil || !bytes.Contains(got, []byte{7, 0, 0, 0, 0, 0}) { // GOAWAY on stream 0
			t.Errorf("the peer heard %x, then %v", got, s.closed)
		}
	})
}

// pair is a client's pool and a server on one loop in fake time, over sockets that deliver at once.
type pair struct {
	*clockwork
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
	client, server := ca.Credential(ca.Identity("shop", "client")), ca.Credential(ca.Identity("shop", "server"))
	addr := netip.MustParseAddrPort("10.0.0.2:15008")
	p := &pair{clockwork: newClockwork(t)}
	p.target = Target{Source: client.Identity, Expected: []identity.Workload{server.Identity}, Addr: addr}
	p.request = Request{Authority: AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.2:80"))}
	p.srv = NewServer(ServerConfig{
		Loop:   p.loop,
		TLS:    func(context.Context) (*tls.Config, error) { return mtls.ServerConfig(server), nil },
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
			return mtls.ClientConfig(client, expected), nil
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

// newClockworkPair makes a connection through a pair, in real time if the test is.
func newClockworkPair(t *testing.T) (near, far end) {
	p := newPair(t)
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

func TestHandlerThatForgetsToAnswerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.handle = func(*Incoming) {}
		begun := time.Now()
		_, err := p.connect()
		var status *StatusError
		if !errors.As(err, &status) || status.Status != 503 || time.Since(begun) != answerTimeout {
			t.Errorf("Connect = %v after %v, want status 503 after %v", err, time.Since(begun), answerTimeout)
		}
	})
}

// saying is a connection that takes note of what is said on it and has no answers.
type saying struct {
	net.Conn
	said bytes.Buffer
}

func (s *saying) Write(p []byte) (int, error) { return s.said.Write(p) }
func (s *saying) Read([]byte) (int, error)    { return 0, io.EOF }

// clientHello is how any client begins.
func clientHello() []byte {
	s := new(saying)
	_ = tls.Client(s, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	return s.said.Bytes()
}

// Peers that say nothing, say it slowly, or say half of it, are left at the deadline.
func TestHandshakeDeadline(t *testing.T) {
	hello := clientHello()
	for name, speak := range map[string]func(since time.Duration) (bytes int){
		"says nothing":            func(time.Duration) int { return 0 },
		"says a byte in a second": func(since time.Duration) int { return int(since / time.Second) },
		"stops within a record":   func(time.Duration) int { return 100 },
		"stops after its hello":   func(time.Duration) int { return len(hello) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				ours, theirs := socketPair()
				begun := time.Now()
				p.srv.Serve(theirs, netip.AddrPort{}, netip.AddrPort{})
				said := 0
				stop := p.every(time.Second, func() {
					for ; said < speak(time.Since(begun)) && said < len(hello); said++ {
						_, _ = loop.Write(ours, hello[said:said+1])
					}
				})
				p.until(func() bool { return len(p.failures) > 0 }, time.Hour)
				if len(p.failures) != 1 || p.failures[0].Stage != StageTLS || time.Since(begun) != handshakeTimeout {
					t.Errorf("after %v: %v", time.Since(begun), p.failures)
				}
				_ = unix.Close(ours)
				stop()
			})
		})
	}
}

func TestServerThatGetsNoCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.srv.cfg.TLS = func(ctx context.Context) (*tls.Config, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		begun := time.Now()
		_, err := p.connect()
		if err == nil || time.Since(begun) != handshakeTimeout {
			t.Errorf("Connect = %v after %v", err, time.Since(begun))
		}
		if len(p.failures) != 1 || p.failures[0].Stage != StageIdentity {
			t.Errorf("failures %v", p.failures)
		}
	})
}

func TestPeerThatDoesNotShakeHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		var theirs int
		p.pool.cfg.Dial = func(_ netip.AddrPort, done func(int, error)) (func(), error) {
			var ours int
			ours, theirs = socketPair()
			_ = p.loop.Post(func() { done(ours, nil) })
			return func() {}, nil
		}
		begun := time.Now()
		_, err := p.connect()
		var dial *DialError
		if !errors.As(err, &dial) || dial.Stage != StageTLS || time.Since(begun) != handshakeTimeout {
			t.Errorf("Connect = %v after %v", err, time.Since(begun))
		}
		_ = unix.Close(theirs)
	})
}

// An application that reads nothing for an hour costs its window and no more, the tunnel and others on it go on, and nothing is
// lost when it reads again.
func TestApplicationThatReadsNothingForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		var far []int
		p.handle = func(in *Incoming) {
			s, err := in.Accept(Baggage{})
			if err != nil {
				t.Error(err)
				return
			}
			inner, outer := socketPair()
			far = append(far, outer)
			s.Join(inner, func(relay.Result) {})
		}
		near := func() int {
			s, err := p.connect()
			if err != nil {
				t.Fatal(err)
			}
			inner, outer := socketPair()
			s.Join(inner, func(relay.Result) {})
			return outer
		}
		stalled, lively := near(), near()
		content := noise(32<<20, 9)
		left := content
		p.each = func() {
			for len(left) > 0 {
				n, err := loop.Write(stalled, left[:min(len(left), 64<<10)])
				if err != nil {
					return
				}
				left = left[n:]
			}
		}
		p.pass(time.Hour)
		if len(p.srv.tunnels) != 1 || len(p.failures) != 0 {
			t.Fatalf("%d tunnels, failures %v", len(p.srv.tunnels), p.failures)
		}
		for server := range p.srv.tunnels {
			if held := backlogOf(server); held == 0 || held > 4<<20 {
				t.Errorf("%d bytes are held, want at most the stream's window", held)
			}
		}
		_, _ = loop.Write(lively, []byte("still here"))
		p.settle()
		word := make([]byte, 20)
		if n, err := loop.Read(far[1], word); string(word[:max(0, n)]) != "still here" {
			t.Errorf("the other connection got %q, %v", word[:max(0, n)], err)
		}
		at := 0
		space := make([]byte, 1<<20)
		for idle := 0; at < len(content) && idle < 100; idle++ {
			for n, err := loop.Read(far[0], space); err == nil && n > 0; n, err = loop.Read(far[0], space) {
				if !bytes.Equal(space[:n], content[at:at+n]) {
					t.Fatalf("other content after %d bytes", at)
				}
				at, idle = at+n, 0
			}
			p.settle()
		}
		if at != len(content) {
			t.Errorf("%d bytes of %d arrived", at, len(content))
		}
		for _, fd := range append(far, stalled, lively) {
			_ = unix.Close(fd)
		}
		p.settle()
	})
}

// A pool keeps a tunnel for five minutes after its last connection, by default.
func TestPoolsForgetIdleTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.handle = accepting
		s, err := p.connect()
		if err != nil {
			t.Fatal(err)
		}
		p.pass(time.Hour)
		if len(p.pool.shared) != 1 {
			t.Fatal("a tunnel in use was closed")
		}
		s.Reset()
		p.pass(5*time.Minute - time.Second)
		if len(p.pool.shared) != 1 {
			t.Error("an idle tunnel was closed early")
		}
		p.pass(2 * time.Second)
		if len(p.pool.shared) != 0 || len(p.srv.tunnels) != 0 {
			t.Error("an idle tunnel is kept")
		}
	})
}

// A peer may change its keys at any time, and ask for ours to be changed; nothing of the data is lost by that.
func TestKeyUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, tunnelConfig{})
		inner, outer := socketPair()
		defer func() { _ = unix.Close(outer) }()
		stream := scriptedStream(t, s, inner)
		s.hear()
		s.in.Reset()
		for _, request := range []bool{true, false, true} {
			p, err := s.writer.AppendKeyUpdate(nil, request)
			if err != nil {
				t.Fatal(err)
			}
			s.send(p)
			_ = s.WriteData(stream.id, false, []byte("down"))
			s.say()
			_, _ = loop.Write(outer, []byte("up"))
			s.settle()
			word := make([]byte, 10)
			if n, err := loop.Read(outer, word); string(word[:max(0, n)]) != "down" {
				t.Errorf("the application got %q, %v", word[:max(0, n)], err)
			}
			before, _ := s.reader.State()
			if s.hear(); !bytes.HasSuffix(s.in.Bytes(), []byte("up")) {
				t.Errorf("the peer got %q", s.in.Bytes())
			}
			if after, _ := s.reader.State(); bytes.Equal(before.Secret, after.Secret) == request {
				t.Errorf("asked for new keys: %v, and they changed: %v", request, !request)
			}
			s.in.Reset()
		}
	})
}

// A peer that breaks TLS hears by which alert, and its streams end.
func TestBrokenRecordsAreAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		send []byte
		want record.Alert
	}{
		"not of this connection": {append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...), record.BadRecordMAC},
		"too long":               {[]byte{23, 3, 3, 255, 255}, record.RecordOverflow},
		"plain text":             {[]byte("HTTP/1.1 400 Bad Request"), record.UnexpectedMessage},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fault error
				s := newScripted(t, tunnelConfig{fault: func(err error) { fault = err }})
				s.send(test.send)
				s.settle()
				var local *record.AlertError
				if !errors.As(fault, &local) || local.Alert != test.want {
					t.Errorf("the tunnel ended with %v", fault)
				}
				sealed := make([]byte, 1000)
				n, err := loop.Read(s.fd, sealed)
				for rest := sealed[:max(0, n)]; len(rest) > 0; {
					length, _ := s.reader.Next(rest)
					if _, err = s.reader.Open(rest[:length]); err != nil {
						break
					}
					rest = rest[length:]
				}
				if !errors.Is(err, record.RemoteAlert(test.want)) {
					t.Errorf("the peer is told %v, want %v", err, test.want)
				}
				s.closed = io.EOF // what the peer reads is over
			})
		})
	}
}
