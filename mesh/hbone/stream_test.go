package hbone

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	_ = slow.near.SetWriteBuffer(64 << 10)
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
	var unread int
	server := b.serverTunnel()
	b.onFar(func() { unread = backlogOf(server) })
	if unread == 0 || unread > 4<<20 {
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
	all := b.allTunnels()
	if len(all) == 0 {
		b.tb.Fatal("the server has no tunnel")
	}
	return all[0]
}

func (b *bed) allTunnels() (all []*tunnel) {
	b.onFar(func() {
		for t := range b.srv.tunnels {
			all = append(all, t)
		}
	})
	return all
}

// backlogOf sums what a tunnel's streams hold.
func backlogOf(t *tunnel) (n int) {
	for _, s := range t.streams {
		n += s.backlog.Len()
	}
	return n
}

// When a tunnel breaks, its connections are reset on both sides.
func TestBrokenTunnelResetsItsConnections(t *testing.T) {
	b := newBed(t)
	wire, cut := b.wire()
	b.listener = wire
	e := b.tunnelled()
	exchange(t, e)
	cut()
	for _, c := range []*net.TCPConn{e.near, e.far} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an application reads %v, want a reset", err)
		}
	}
	if near, far := result(t, e.nearEnd), result(t, e.farEnd); near.Err == nil || far.Err == nil {
		t.Errorf("results %+v and %+v, want errors", near, far)
	}
}

// wire is a way to the bed's server that can be cut: both ends are reset.
func (b *bed) wire() (in *net.TCPListener, cut func()) {
	in, to := listen(b.tb), b.listener.Addr().(*net.TCPAddr)
	ends := make(chan *net.TCPConn, 2)
	b.accepts.Go(func() {
		near, err := in.AcceptTCP()
		if err != nil {
			return
		}
		far, err := net.DialTCP("tcp4", nil, to)
		if err != nil {
			b.tb.Error(err)
			return
		}
		b.accepts.Go(func() { _, _ = io.Copy(near, far) })
		b.accepts.Go(func() { _, _ = io.Copy(far, near) })
		ends <- near
		ends <- far
	})
	return in, func() {
		for range 2 {
			c := <-ends
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
}

// An application that has ended its direction and then breaks the other is heard by a peer that says nothing.
func TestResetAfterTheEnd(t *testing.T) {
	for name, pick := range map[string]func(*ends) (*net.TCPConn, *net.TCPConn){
		"near": func(e *ends) (*net.TCPConn, *net.TCPConn) { return e.near, e.far },
		"far":  func(e *ends) (*net.TCPConn, *net.TCPConn) { return e.far, e.near },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			e := b.tunnelled()
			exchange(t, e)
			from, to := pick(e)
			_ = from.CloseWrite()
			if _, err := to.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("the other application reads %v, want FIN", err)
			}
			_ = from.SetLinger(0)
			_ = from.Close()
			if near, far := result(t, e.nearEnd), result(t, e.farEnd); near.Err == nil || far.Err == nil {
				t.Errorf("results %+v and %+v, want errors", near, far)
			}
		})
	}
}

// Urgent data, at which reads stop short, doesn't hold up what follows. The urgent byte itself is lost, as it is out of band.
func TestUrgentData(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	raw, err := e.near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b.onNear(func() { // so that the loop finds all of it at once
		_ = raw.Control(func(fd uintptr) {
			err = errors.Join(unix.Sendto(int(fd), []byte("before!"), unix.MSG_OOB, nil), unix.Sendto(int(fd), []byte("after"), 0, nil))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("beforeafter"))
	if n, err := io.ReadFull(e.far, got); err != nil || string(got) != "beforeafter" {
		t.Errorf("got %q, %v", got[:n], err)
	}
}

// An application that breaks its connection is heard even while the other one reads nothing.
func TestResetReachesAStalledStream(t *testing.T) {
	for name, pick := range map[string]func(*ends) *net.TCPConn{
		"near": func(e *ends) *net.TCPConn { return e.near },
		"far":  func(e *ends) *net.TCPConn { return e.far },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			e := b.tunnelled()
			exchange(t, e)
			from := pick(e)
			_ = from.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			for p, err := make([]byte, 1<<20), error(nil); err == nil; {
				_, err = from.Write(p)
			}
			_ = from.SetLinger(0)
			_ = from.Close()
			if near, far := result(t, e.nearEnd), result(t, e.farEnd); !errors.Is(near.Err, syscall.ECONNRESET) || !errors.Is(far.Err, syscall.ECONNRESET) {
				t.Errorf("results %+v and %+v, want resets", near, far)
			}
		})
	}
}
