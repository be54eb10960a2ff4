package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// joined is a relay with the two applications at its ends.
type joined struct {
	a, b    *net.TCPConn
	session *Session
	done    chan Result
}

func join(tb testing.TB) *joined {
	tb.Helper()
	j := &joined{done: make(chan Result, 2)}
	var innerA, innerB *net.TCPConn
	j.a, innerA = tcpPair(tb)
	j.b, innerB = tcpPair(tb)
	j.session = Join(innerA, innerB, func(r Result) { j.done <- r })
	return j
}

func (j *joined) result(tb testing.TB) Result {
	tb.Helper()
	select {
	case r := <-j.done:
		return r
	case <-time.After(patience):
		tb.Fatal("the relay does not end")
		return Result{}
	}
}

func tcpPair(tb testing.TB) (outer, inner *net.TCPConn) {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if outer, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)); err != nil {
		tb.Fatal(err)
	}
	if inner, err = l.AcceptTCP(); err != nil {
		tb.Fatal(err)
	}
	_ = outer.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { _ = outer.Close() })
	return outer, inner
}

func noise(n int, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func TestContentArrivesBothWays(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 64 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			j := join(t)
			up, down := noise(size, 1), noise(size, 2)
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
			wg.Go(func() { send(j.a, up) })
			wg.Go(func() { send(j.b, down) })
			wg.Go(func() { expect(j.b, up) })
			expect(j.a, down)
			wg.Wait()
			want := Result{Sent: uint64(size), Received: uint64(size)}
			if got := j.result(t); got != want {
				t.Errorf("result %+v, want %+v", got, want)
			}
		})
	}
}

// Bulk, then small messages, then bulk again: the pipe comes and goes without losing a byte or a descriptor.
func TestBulkAndSmallTakeTurns(t *testing.T) {
	before := descriptors(t)
	t.Run("relay", func(t *testing.T) {
		j := join(t)
		var want []byte
		for i := range 20 {
			want = append(want, noise([]int{4 << 20, 10, 3000}[i%3], byte(i))...)
		}
		go func() {
			for p := want; len(p) > 0; {
				n := min(len(p), []int{1 << 20, 10, 3000}[len(p)%3])
				if _, err := j.a.Write(p[:n]); err != nil {
					t.Error(err)
					return
				}
				p = p[n:]
			}
			_ = j.a.CloseWrite()
		}()
		if err := same(j.b, want); err != nil {
			t.Error(err)
		}
		_ = j.b.CloseWrite()
		j.result(t)
	})
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestHalfCloseGoesOn(t *testing.T) {
	j := join(t)
	say := func(from, to *net.TCPConn, text string) {
		t.Helper()
		_, _ = io.WriteString(from, text)
		_ = from.CloseWrite()
		if got, err := io.ReadAll(to); err != nil || string(got) != text {
			t.Fatalf("got %q, %v, want %q and FIN", got, err, text)
		}
	}
	say(j.b, j.a, "first")
	select {
	case r := <-j.done:
		t.Fatalf("the relay ended with the first half: %+v", r)
	default:
	}
	say(j.a, j.b, "second")
	if r := j.result(t); r != (Result{Sent: 6, Received: 5}) {
		t.Errorf("result %+v", r)
	}
}

func TestResetStaysAReset(t *testing.T) {
	for _, aFirst := range []bool{true, false} {
		j := join(t)
		from, to := j.a, j.b
		if !aFirst {
			from, to = j.b, j.a
		}
		exchange(t, j)
		reset(from)
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other application reads %v, want a reset", err)
		}
		if r := j.result(t); !errors.Is(r.Err, syscall.ECONNRESET) {
			t.Errorf("result %+v", r)
		}
	}
}

func exchange(t *testing.T, j *joined) {
	t.Helper()
	for _, c := range [][2]*net.TCPConn{{j.a, j.b}, {j.b, j.a}} {
		_, _ = io.WriteString(c[0], "ping")
		if _, err := io.ReadFull(c[1], make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCut(t *testing.T) {
	j := join(t)
	exchange(t, j)
	reason := errors.New("policy")
	j.session.Cut(reason)
	j.session.Cut(errors.New("second"))
	for _, c := range []*net.TCPConn{j.a, j.b} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an application reads %v, want a reset", err)
		}
	}
	if r := j.result(t); r != (Result{Sent: 4, Received: 4, Err: reason}) {
		t.Errorf("result %+v", r)
	}
	j.session.Cut(errors.New("too late"))
	if sent, received := j.session.Counts(); sent != 4 || received != 4 {
		t.Errorf("Counts() = %d, %d", sent, received)
	}
}

// Cut gets through to a relay whose both sides are stuck, and the counts say how far it came.
func TestCutOfAStalledRelay(t *testing.T) {
	j := join(t)
	var written atomic.Int64
	var writer sync.WaitGroup
	writer.Go(func() {
		p := make([]byte, 1<<20)
		for {
			n, err := j.a.Write(p)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	last := uint64(0)
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		now, _ := j.session.Counts()
		if now == last && now > 0 {
			tick.Stop()
			break
		}
		last = now
	}
	j.session.Cut(errors.New("policy"))
	if r := j.result(t); r.Sent < last || r.Sent > last+pipeSize || r.Err == nil {
		t.Errorf("result %+v, want the %d bytes that the counts told, and what was in hand", r, last)
	}
	writer.Wait()
}

func TestIdleReaderOwnsNoBuffer(t *testing.T) {
	_, inner := tcpPair(t)
	s, err := NewSocket(inner)
	if err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		if _, err := s.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Receive = %v", err)
		}
	})
	_ = s.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	reader.Wait()
	if s.buffer != nil {
		t.Error("a reader that waited holds a buffer")
	}
	_ = s.Close()
}

func TestTryWriteNeverWaits(t *testing.T) {
	outer, inner := tcpPair(t)
	s, err := NewSocket(inner)
	if err != nil {
		t.Fatal(err)
	}
	content := noise(32<<20, 9)
	n, err := s.TryWrite(content)
	if err != nil || n == 0 || n == len(content) {
		t.Errorf("TryWrite = %d, %v, want a part", n, err)
	}
	if more, err := s.TryWrite(content[n:]); err != nil || more > 1<<20 {
		t.Errorf("TryWrite on a full socket = %d, %v", more, err)
	} else {
		n += more
	}
	_ = s.CloseWrite()
	if got, err := io.ReadAll(outer); err != nil || !bytes.Equal(got, content[:n]) {
		t.Errorf("%d bytes arrived, %v, want %d", len(got), err, n)
	}
	s.Reset()
	if _, err := s.TryWrite(content); err == nil {
		t.Error("TryWrite on a closed socket succeeds")
	}
}

func BenchmarkJoin(b *testing.B) {
	j := join(b)
	_ = j.b.SetDeadline(time.Time{})
	_ = j.a.SetDeadline(time.Time{})
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(io.Discard, j.b) })
	p := make([]byte, 256<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := j.a.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	_ = j.a.CloseWrite()
	reader.Wait()
	_ = j.b.CloseWrite()
	j.result(b)
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
