package hbone

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/relay"
)

// A side that has ended still hears the other, in either order.
func TestHalfCloseGoesOn(t *testing.T) {
	for _, nearFirst := range []bool{true, false} {
		b := newBed(t)
		e := b.tunnelled()
		first, second := e.near, e.far
		if !nearFirst {
			first, second = e.far, e.near
		}
		say := func(from, to *net.TCPConn, text string) {
			t.Helper()
			if _, err := io.WriteString(from, text); err != nil {
				t.Fatal(err)
			}
			_ = from.CloseWrite()
			if got, err := io.ReadAll(to); err != nil || string(got) != text {
				t.Fatalf("got %q, %v, want %q and FIN", got, err, text)
			}
		}
		say(first, second, "question")
		select {
		case <-e.nearEnd:
			t.Error("the connection ended with the first half")
		default:
		}
		say(second, first, "the answer")
		for _, r := range []relay.Result{result(t, e.nearEnd), result(t, e.farEnd)} {
			if r.Err != nil || r.Sent+r.Received != 18 {
				t.Errorf("result %+v, want 18 bytes and no error", r)
			}
		}
	}
}

func TestResetStaysAReset(t *testing.T) {
	for _, test := range []struct {
		name    string
		from    func(*ends) *net.TCPConn
		to      func(*ends) *net.TCPConn
		byReset func(*ends)
	}{
		{"near application", nil, func(e *ends) *net.TCPConn { return e.far }, func(e *ends) { _ = e.near.SetLinger(0); _ = e.near.Close() }},
		{"far application", nil, func(e *ends) *net.TCPConn { return e.near }, func(e *ends) { _ = e.far.SetLinger(0); _ = e.far.Close() }},
		{"cut, seen by the far application", nil, func(e *ends) *net.TCPConn { return e.far }, func(e *ends) { e.session.Cut(errors.New("policy")) }},
		{"cut, seen by the near application", nil, func(e *ends) *net.TCPConn { return e.near }, func(e *ends) { e.session.Cut(errors.New("policy")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			e := b.tunnelled()
			exchange(t, e)
			test.byReset(e)
			if _, err := test.to(e).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other application reads %v, want a reset", err)
			}
			if near, far := result(t, e.nearEnd), result(t, e.farEnd); near.Err == nil || far.Err == nil {
				t.Errorf("results %+v and %+v, want errors", near, far)
			}
		})
	}
}

// exchange proves that the connection works.
func exchange(t *testing.T, e *ends) {
	t.Helper()
	p := make([]byte, 4)
	for _, c := range [][2]*net.TCPConn{{e.near, e.far}, {e.far, e.near}} {
		if _, err := io.WriteString(c[0], "ping"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c[1], p); err != nil || string(p) != "ping" {
			t.Fatalf("got %q, %v", p, err)
		}
	}
}

func TestCutReportsItsReason(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	reason := errors.New("policy shop/deny")
	e.session.Cut(reason)
	e.session.Cut(errors.New("second"))
	if r := result(t, e.nearEnd); r.Err != reason || r.Sent != 4 || r.Received != 4 {
		t.Errorf("result %+v, want the reason and 4 bytes each way", r)
	}
	e.session.Cut(errors.New("too late"))
}

// The application closes while the other still sends: the sender learns it as it would without a tunnel.
func TestFullCloseIsSeenByTheSender(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	_ = e.far.Close()
	p := make([]byte, 64<<10)
	for {
		if _, err := e.near.Write(p); err != nil {
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the sender got %v", err)
			}
			return
		}
	}
}

// One reader that doesn't read stops its own sender after the stream's window and what the sockets hold, while others on the
// same tunnel go on; nothing is lost when it reads again.
func TestSlowReaderStopsItsSenderOnly(t *testing.T) {
	b := newBed(t)
	slow := b.tunnelled()
	_ = slow.far.SetReadBuffer(64 << 10)
	content := noise(64<<20, 3)
	var sent atomic.Int64
	written := make(chan error, 1)
	go func() {
		for p := content; len(p) > 0; {
			n, err := slow.near.Write(p[:min(len(p), 64<<10)])
			sent.Add(int64(n))
			if p = p[n:]; err != nil {
				written <- err
				return
			}
		}
		written <- slow.near.CloseWrite()
	}()
	stalled := settle(&sent)
	if stalled > 40<<20 {
		t.Errorf("the sender got rid of %d bytes although nobody reads", stalled)
	}
	relayed, _ := slow.session.Counts()
	server := b.serverTunnel()
	server.mu.Lock()
	unread := backlogOf(server)
	server.mu.Unlock()
	if unread == 0 || unread > 4<<20+chunkSize {
		t.Errorf("the stalled stream holds %d bytes of %d, want at most its window", unread, relayed)
	}
	other := b.tunnelled()
	if b.tunnels() != 1 {
		t.Fatalf("%d tunnels, want both streams on one", b.tunnels())
	}
	exchange(t, other)
	if err := same(slow.far, content); err != nil {
		t.Errorf("after the stall: %v", err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	_ = slow.far.CloseWrite()
	result(t, slow.nearEnd)
}

// settle waits until a counter stays where it is.
func settle(counter *atomic.Int64) int64 {
	last, same := int64(-1), 0
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		now := counter.Load()
		if now != last {
			last, same = now, 0
		} else if same++; now > 0 && same == 10 {
			tick.Stop()
			return now
		}
	}
}

// serverTunnel returns the one tunnel that the server has.
func (b *bed) serverTunnel() *tunnel {
	b.srv.mu.Lock()
	defer b.srv.mu.Unlock()
	for t := range b.srv.tunnels {
		return t
	}
	b.tb.Fatal("the server has no tunnel")
	return nil
}

// backlogOf sums what a tunnel's streams hold.
func backlogOf(t *tunnel) (n int) {
	for _, s := range t.streams {
		n += s.in.size()
	}
	return n
}

// When a tunnel breaks, its connections are reset on both sides.
func TestBrokenTunnelResetsItsConnections(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	b.mu.Lock()
	_ = b.conns[0].SetLinger(0)
	_ = b.conns[0].Close()
	b.mu.Unlock()
	for _, c := range []*net.TCPConn{e.near, e.far} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an application reads %v, want a reset", err)
		}
	}
	if near, far := result(t, e.nearEnd), result(t, e.farEnd); near.Err == nil || far.Err == nil {
		t.Errorf("results %+v and %+v, want errors", near, far)
	}
}

func TestStreamAsConn(t *testing.T) {
	b := newBed(t)
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{Service: "echo"})
		if err != nil {
			t.Error(err)
			return
		}
		c := s.Conn()
		_, _ = io.Copy(c, c)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	})
	s := b.connect()
	c := s.Conn()
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("Read past its deadline = %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	content := noise(8<<20, 4)
	go func() {
		_, _ = c.Write(content)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("echoed %d bytes, %v, want %d", len(got), err, len(content))
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after CloseWrite = %v", err)
	}
	_ = c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close = %v", err)
	}
}

func TestWriteDeadlineOfAStalledConn(t *testing.T) {
	b := newBed(t)
	hold := make(chan struct{})
	b.onConnect(func(in *Incoming) {
		s, err := in.Accept(Baggage{})
		if err != nil {
			t.Error(err)
			return
		}
		<-hold
		s.Reset()
	})
	c := b.connect().Conn()
	if n, err := c.Write(make([]byte, 4<<20)); n != 4<<20 || err != nil {
		t.Errorf("Write = %d, %v, want the window's 4 MiB", n, err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Write(make([]byte, 4<<20)); n != 0 || !isTimeout(err) {
		t.Errorf("Write beyond the window = %d, %v, want a timeout", n, err)
	}
	close(hold)
	_ = c.SetWriteDeadline(time.Time{})
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read after the peer's reset = %v", err)
	}
	_ = c.Close()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
