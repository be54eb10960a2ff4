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

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

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

// What a burst needed beside the first tunnel is not kept for long.
func TestPoolsForgetTheTunnelsOfABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.handle = accepting
		p.pool.cfg.MaxStreams = 2
		var streams []*Stream
		for range 6 {
			s, err := p.connect()
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		p.pass(time.Minute)
		if n := len(p.srv.tunnels); n != 3 {
			t.Fatalf("%d tunnels carry 6 connections, 2 each", n)
		}
		for _, s := range streams {
			s.Reset()
		}
		p.pass(spareIdle - time.Second)
		if n := len(p.srv.tunnels); n != 3 {
			t.Errorf("%d tunnels are left at once after a burst", n)
		}
		p.pass(3 * time.Second)
		if n := len(p.srv.tunnels); n != 1 {
			t.Errorf("%d tunnels are left after a burst", n)
		}
		p.pass(5 * time.Minute)
		if n := len(p.srv.tunnels); n != 0 {
			t.Errorf("%d idle tunnels are kept", n)
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
