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
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// joined is a relay with the two applications at its ends.
type joined struct {
	a, b    *net.TCPConn
	loop    *loop.Loop
	pair    *pair
	session *Session
	done    chan Result
}

func join(tb testing.TB) *joined {
	tb.Helper()
	l, err := loop.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(l.Close)
	return joinOn(tb, l)
}

func joinOn(tb testing.TB, l *loop.Loop) *joined {
	tb.Helper()
	j := &joined{loop: l, done: make(chan Result, 2)}
	var innerA, innerB int
	j.a, innerA = tcpPair(tb)
	j.b, innerB = tcpPair(tb)
	if err := l.Do(func() {
		j.pair = begin(l, innerA, innerB, func(r Result) { j.done <- r })
		j.session = j.pair.session
	}); err != nil {
		tb.Fatal(err)
	}
	return j
}

// on runs f on the relay's loop.
func (j *joined) on(f func()) { _ = j.loop.Do(f) }

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

// tcpPair makes a connected pair; the inner end is a bare descriptor.
func tcpPair(tb testing.TB) (outer *net.TCPConn, inner int) {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if outer, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)); err != nil {
		tb.Fatal(err)
	}
	accepted, err := l.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := accepted.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { inner, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		tb.Fatal(err)
	}
	_ = accepted.Close()
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
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil { // opens what the runtime itself needs
		_ = l.Close()
	}
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
	last := stalled(j)
	j.session.Cut(errors.New("policy"))
	if r := j.result(t); r.Sent < last || r.Sent > last+pipeSize || r.Err == nil {
		t.Errorf("result %+v, want the %d bytes that the counts told, and what was in hand", r, last)
	}
	writer.Wait()
}

// stalled waits until the count of what was sent stays where it is.
func stalled(j *joined) uint64 {
	last := uint64(0)
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		now, _ := j.session.Counts()
		if now == last && now > 0 {
			tick.Stop()
			return now
		}
		last = now
	}
}

// Once everything has gone through and nothing comes, a relay holds no pipe and no bytes.
func TestIdleRelayOwnsNothing(t *testing.T) {
	before := descriptors(t)
	j := join(t)
	content := noise(8<<20, 3)
	go func() { _, _ = j.a.Write(content) }()
	piped := false
	for left := len(content); left > 0; {
		n, err := j.b.Read(make([]byte, min(left, 100<<10)))
		if err != nil {
			t.Fatal(err)
		}
		left -= n
		j.on(func() { piped = piped || j.pair.there.pipe != nil })
	}
	if !piped {
		t.Error("bulk didn't go through a pipe")
	}
	j.on(func() {
		for _, d := range []*direction{&j.pair.there, &j.pair.back} {
			if d.pipe != nil || d.left != nil {
				t.Errorf("an idle direction holds pipe %v, %d bytes", d.pipe, len(d.left))
			}
		}
	})
	// The loop has its epoll instance, that again while it isn't busy, and its wake-up; the sockets have four ends.
	if after := descriptors(t); after != before+2+4 && after != before+3+4 {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// An application that has ended its direction and then breaks the other is heard, though nothing is to be written to it.
func TestResetAfterTheEnd(t *testing.T) {
	for _, aFirst := range []bool{true, false} {
		j := join(t)
		from, to := j.a, j.b
		if !aFirst {
			from, to = j.b, j.a
		}
		exchange(t, j)
		_ = from.CloseWrite()
		if _, err := to.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the other application reads %v, want FIN", err)
		}
		reset(from)
		if r := j.result(t); !errors.Is(r.Err, syscall.ECONNRESET) {
			t.Errorf("result %+v", r)
		}
		if _, err := to.Write(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the other application writes %v", err)
		}
	}
}

// An application that breaks its connection is heard even while the other one reads nothing: both would know without us.
func TestResetReachesAStalledRelay(t *testing.T) {
	for _, aFirst := range []bool{true, false} {
		j := join(t)
		from := j.a
		if !aFirst {
			from = j.b
		}
		exchange(t, j)
		_ = from.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		for p := make([]byte, 1<<20); ; {
			if _, err := from.Write(p); err != nil {
				break
			}
		}
		reset(from)
		if r := j.result(t); !errors.Is(r.Err, syscall.ECONNRESET) {
			t.Errorf("result %+v", r)
		}
	}
}

// A relay that moves bulk leaves the loop to others between its turns.
func TestBulkDoesNotStarveOthers(t *testing.T) {
	bulk := join(t)
	small := joinOn(t, bulk.loop)
	var writer, reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, bulk.b) })
	stop := make(chan struct{})
	writer.Go(func() {
		p := make([]byte, 1<<20)
		for {
			select {
			case <-stop:
				_ = bulk.a.CloseWrite()
				return
			default:
				_, _ = bulk.a.Write(p)
			}
		}
	})
	for range 200 {
		exchange(t, small)
	}
	close(stop)
	writer.Wait()
	reader.Wait()
	if sent, _ := bulk.session.Counts(); sent == 0 {
		t.Error("the bulk stood still")
	}
}

// A reader that doesn't read stops the writer after what sockets and one pipe hold.
func TestSlowReaderStopsTheWriter(t *testing.T) {
	j := join(t)
	content := noise(64<<20, 5)
	var writer sync.WaitGroup
	writer.Go(func() {
		_, _ = j.a.Write(content)
		_ = j.a.CloseWrite()
	})
	stalled(j)
	j.on(func() {
		held := len(j.pair.there.left)
		if p := j.pair.there.pipe; p != nil {
			held += p.holds
		}
		if held > pipeSize {
			t.Errorf("the relay holds %d bytes", held)
		}
	})
	if err := same(j.b, content); err != nil {
		t.Error(err)
	}
	writer.Wait()
	_ = j.b.CloseWrite()
	if r := j.result(t); r.Err != nil || r.Sent != uint64(len(content)) {
		t.Errorf("result %+v", r)
	}
}

// Small messages to a reader that doesn't read, which never were bulk, wait in memory, and all arrive.
func TestSmallMessagesWait(t *testing.T) {
	l, err := loop.Manual()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, innerA := unixPair(t)
	b, innerB := unixPair(t)
	over := false
	p := begin(l, innerA, innerB, func(Result) { over = true })
	var want, got []byte
	space := make([]byte, 64<<10)
	for round := 0; p.there.left == nil || round%7 != 0; round++ {
		message := noise(3000+round%5*1000, byte(round))
		if n, err := loop.Write(a, message); n != len(message) {
			t.Fatalf("the relay took %d bytes and keeps none: %d, %v", len(want), n, err)
		}
		want = append(want, message...)
		l.Turn()
	}
	if p.there.pipe != nil {
		t.Error("small messages went through a pipe")
	}
	_ = unix.Shutdown(a, unix.SHUT_WR)
	for turn := 0; turn < 1000 && len(got) < len(want); turn++ {
		if n, err := loop.Read(b, space[:1+turn*37%len(space)]); err == nil {
			got = append(got, space[:n]...)
		}
		l.Turn()
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(want))
	}
	_ = unix.Close(b)
	for range 5 {
		l.Turn()
	}
	if !over {
		t.Error("the relay does not end")
	}
	_ = unix.Close(a)
}

// unixPair makes two connected descriptors, on which all that one end does is seen by the other at once.
func unixPair(t *testing.T) (outer, inner int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], pair[1]
}

// A socket that can't be watched ends the relay by done, not within Join, and both are closed.
func TestJoinOfWhatIsNoSocket(t *testing.T) {
	before := descriptors(t)
	t.Run("join", func(t *testing.T) {
		l, err := loop.New()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, inner := tcpPair(t)
		file, err := unix.Open("/etc/hostname", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		done, returned := make(chan Result, 1), false
		_ = l.Do(func() {
			Join(l, inner, file, func(r Result) {
				if !returned {
					t.Error("done was called within Join")
				}
				done <- r
			})
			returned = true
		})
		if r := <-done; r.Err == nil {
			t.Errorf("result %+v", r)
		}
	})
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
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

// reset closes a connection as a program does that was killed with bytes unread.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
