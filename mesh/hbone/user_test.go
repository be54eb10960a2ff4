package hbone

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/relay"
)

// echoer sends back what comes, by code in the process. Its fields are the loop's.
type echoer struct {
	s        *Stream
	hold     bool // consumes nothing
	unread   int
	received bytes.Buffer
	sent     int
	ended    bool
	broken   chan error
}

func newEchoer() *echoer { return &echoer{broken: make(chan error, 2)} }

func (e *echoer) Received(p []byte) {
	e.received.Write(p)
	if e.hold {
		e.unread += len(p)
		return
	}
	e.s.Write(p)
	e.s.Consumed(len(p))
}

func (e *echoer) Ended()           { e.ended = true; e.s.End() }
func (e *echoer) Sent(n int)       { e.sent += n }
func (e *echoer) Broken(err error) { e.broken <- err }

// echoed makes a connection from an application to an echo in the process of the server.
func (b *bed) echoed(e *echoer) (*net.TCPConn, *ends) {
	b.tb.Helper()
	accepted := make(chan struct{})
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			b.tb.Error(err)
			return
		}
		e.s = s
		s.Use(e)
		close(accepted)
	})
	near, inner := tcpPair(b.tb)
	all := &ends{near: near}
	all.session, all.nearEnd = join(b.connect(), inner)
	<-accepted
	return near, all
}

// sendAndHear sends content and reads what comes until the end.
func sendAndHear(t *testing.T, c *net.TCPConn, content []byte) []byte {
	t.Helper()
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := c.Write(content); err != nil {
			t.Error(err)
		}
		_ = c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	writing.Wait()
	return got
}

func TestCodeInTheProcessServesAStream(t *testing.T) {
	for _, size := range []int{0, 1, 100_000, 9 << 20} {
		b := newBed(t)
		e := newEchoer()
		near, all := b.echoed(e)
		content := noise(size, 1)
		if got := sendAndHear(t, near, content); !bytes.Equal(got, content) {
			t.Errorf("of %d bytes %d came back", size, len(got))
		}
		if r := result(t, all.nearEnd); r.Err != nil {
			t.Errorf("result %+v", r)
		}
		b.onFar(func() {
			if e.sent != size || e.s.Waiting() != 0 || !e.ended || len(e.broken) > 0 {
				t.Errorf("of %d bytes %d were sent, %d wait", size, e.sent, e.s.Waiting())
			}
		})
		if server := b.serverTunnel(); server != nil {
			b.onFar(func() {
				if len(server.streams) != 0 || server.core.Unread() != 0 {
					t.Errorf("the tunnel has %d streams and %d unread bytes after its only one", len(server.streams), server.core.Unread())
				}
			})
		}
	}
}

func TestCodeInTheProcessIsAClient(t *testing.T) {
	b := newBed(t)
	far, inner := tcpPair(t)
	farEnd := make(chan relay.Result, 2)
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			t.Error(err)
			return
		}
		joinHere(s, inner, farEnd)
	})
	e := newEchoer()
	e.s = b.connect()
	b.onNear(func() { e.s.Use(e) })
	content := noise(5<<20, 2)
	if got := sendAndHear(t, far, content); !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back", len(got))
	}
	if r := result(t, farEnd); r.Err != nil {
		t.Errorf("result %+v", r)
	}
}

// What came before the code was there isn't lost, nor is its end.
func TestUseGetsWhatCameBefore(t *testing.T) {
	b := newBed(t)
	streams := make(chan *Stream, 1)
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			t.Error(err)
		}
		streams <- s
	})
	near, inner := tcpPair(t)
	join(b.connect(), inner)
	content := noise(200_000, 5)
	if _, err := near.Write(content); err != nil {
		t.Fatal(err)
	}
	_ = near.CloseWrite()
	e := newEchoer()
	e.s = <-streams
	eventually(t, "everything to be there", func() (there bool) {
		b.onFar(func() { there = e.s.backlog.Len() == len(content) && e.s.remoteEnd })
		return there
	})
	b.onFar(func() {
		e.s.Use(e)
		if e.received.Len() > 0 {
			t.Error("Use called back before it returned")
		}
	})
	if got, err := io.ReadAll(near); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// Who consumes nothing gets a window's worth, and the rest later.
func TestCodeThatDoesNotConsumeStopsItsSender(t *testing.T) {
	b := newBed(t)
	e := newEchoer()
	e.hold = true
	near, _ := b.echoed(e)
	content := noise(12<<20, 3)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := near.Write(content); err != nil {
			t.Error(err)
		}
	})
	const window = 4 << 20
	eventually(t, "the window to be full", func() (full bool) {
		b.onFar(func() { full = e.received.Len() == window })
		return full
	})
	b.onFar(func() {
		if e.received.Len() != window {
			t.Errorf("%d bytes came of a window of %d", e.received.Len(), window)
		}
		e.hold = false
		e.s.Consumed(e.unread)
	})
	writing.Wait()
	eventually(t, "the rest to come", func() (all bool) {
		b.onFar(func() { all = bytes.Equal(e.received.Bytes(), content) })
		return all
	})
}

func TestResetsOfAStreamThatCodeUses(t *testing.T) {
	t.Run("by the code", func(t *testing.T) {
		b := newBed(t)
		e := newEchoer()
		near, all := b.echoed(e)
		b.onFar(func() {
			e.s.Write([]byte("gone"))
			e.s.Reset()
			e.s.Write([]byte("after the end"))
		})
		if _, err := io.ReadAll(near); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the application reads %v, want a reset", err)
		}
		if r := result(t, all.nearEnd); r.Err == nil {
			t.Error("no error")
		}
		b.onFar(func() {
			if len(e.broken) > 0 {
				t.Error("Broken was called after Reset")
			}
		})
	})
	for name, end := range map[string]func(*bed, *net.TCPConn){
		"by the application": func(_ *bed, near *net.TCPConn) { _ = near.SetLinger(0); _ = near.Close() },
		"with the tunnel":    func(b *bed, _ *net.TCPConn) { b.onFar(b.srv.Close) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			e := newEchoer()
			near, _ := b.echoed(e)
			if _, err := near.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := near.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			end(b, near)
			select {
			case err := <-e.broken:
				if err == nil {
					t.Error("broken without an error")
				}
			case <-time.After(patience):
				t.Error("the code never hears of it")
			}
			b.onFar(func() { e.s.Write([]byte("after the end")); e.s.End(); e.s.Consumed(1) })
		})
	}
}
