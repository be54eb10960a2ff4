package loop

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// ready is a Handler made of a function.
type ready func(Events)

func (f ready) Ready(events Events) { f(events) }

func newLoop(tb testing.TB) *Loop {
	tb.Helper()
	return closedAtTheEnd(tb)(New())
}

func newManual(tb testing.TB) *Loop {
	tb.Helper()
	return closedAtTheEnd(tb)(Manual())
}

func closedAtTheEnd(tb testing.TB) func(*Loop, error) *Loop {
	return func(l *Loop, err error) *Loop {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(l.Close)
		return l
	}
}

// socketPair makes two connected sockets, on which all that one end does is seen by the other at once.
func socketPair(tb testing.TB) (a, b int) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return pair[0], pair[1]
}

func write(tb testing.TB, fd int, text string) {
	tb.Helper()
	if _, err := Write(fd, []byte(text)); err != nil {
		tb.Fatal(err)
	}
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func descriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

func TestOrderOfATurn(t *testing.T) {
	l := newManual(t)
	ours, theirs := socketPair(t)
	defer closeAll(ours, theirs)
	var order []string
	note := func(what string) func() { return func() { order = append(order, what) } }
	input, output := &Task{Run: note("input")}, &Task{Run: note("output")}
	if err := l.Watch(ours, ready(func(Events) {
		note("socket")()
		l.Output(output)
		l.Input(input)
	})); err != nil {
		t.Fatal(err)
	}
	l.Set(&Timer{Run: note("timer")}, time.Now())
	_ = l.Post(note("first post"))
	_ = l.Post(note("second post"))
	l.Turn()
	if want := []string{"first post", "second post", "timer", "socket", "input", "output"}; !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}

// However often a task is queued it runs once; one that queues itself waits for the next turn, so that others get theirs.
func TestTasksTakeTurns(t *testing.T) {
	l := newManual(t)
	var order []string
	var greedy, modest, out Task
	greedy.Run = func() {
		order = append(order, "greedy")
		l.Input(&greedy)
		l.Output(&out)
	}
	modest.Run = func() { order = append(order, "modest") }
	out.Run = func() {
		order = append(order, "out")
		l.Input(&modest)
		l.Input(&modest)
	}
	l.Input(&greedy)
	l.Input(&greedy)
	for turn, want := range []string{"greedy out", "greedy modest out", "greedy modest out"} {
		order = nil
		wait := l.Turn()
		if got := strings.Join(order, " "); got != want {
			t.Errorf("turn %d runs %q, want %q", turn, got, want)
		}
		if wait != 0 {
			t.Errorf("with tasks queued the loop would wait %v", wait)
		}
	}
}

func TestEventsTellOfChanges(t *testing.T) {
	l := newManual(t)
	ours, theirs := socketPair(t)
	var got []Events
	if err := l.Watch(ours, ready(func(e Events) { got = append(got, e) })); err != nil {
		t.Fatal(err)
	}
	step := func(what string, want Events) {
		t.Helper()
		got = nil
		l.Turn()
		if len(got) > 1 || (len(got) == 1) != (want != 0) || (want != 0 && !got[0].Has(want)) {
			t.Errorf("%s: events %#x, want %#x", what, got, want)
		}
	}
	step("a fresh socket is writable", Writable)
	step("nothing changed", 0)
	write(t, theirs, "x")
	step("bytes came", Readable)
	step("they weren't read, which is no change", 0)
	_ = unix.Shutdown(theirs, unix.SHUT_WR)
	step("the peer ended", PeerEnd)
	closeAll(theirs)
	step("the peer closed", Broken)
	l.Forget(ours)
	step("nobody is told", 0)
	closeAll(ours)
}

// An event that was fetched before its descriptor was closed and used again isn't the new socket's.
func TestReusedDescriptor(t *testing.T) {
	l := newManual(t)
	firstOurs, firstTheirs := socketPair(t)
	secondOurs, secondTheirs := socketPair(t)
	var fresh [2]int
	told := 0
	renew := func() {
		l.Release(secondOurs)
		closeAll(secondTheirs)
		fresh[0], fresh[1] = socketPair(t)
		if fresh[0] != secondOurs && fresh[1] != secondOurs {
			t.Fatalf("the kernel reuses no number: %v, want %d", fresh, secondOurs)
		}
		if err := l.Watch(secondOurs, ready(func(e Events) {
			told++
			if e.Has(Readable) {
				t.Errorf("the new socket hears %#x, which was for the one before", e)
			}
		})); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Watch(firstOurs, ready(func(Events) { renew() })); err != nil {
		t.Fatal(err)
	}
	if err := l.Watch(secondOurs, ready(func(Events) { t.Error("an event of a socket that was released") })); err != nil {
		t.Fatal(err)
	}
	write(t, firstTheirs, "x")
	write(t, secondTheirs, "x")
	l.Turn() // fetches both events, the first handler replaces the second socket
	if told != 0 {
		t.Error("the new socket heard of the old one's event")
	}
	l.Turn()
	if told != 1 {
		t.Errorf("the new socket heard %d times of itself, want once", told)
	}
	l.Release(firstOurs)
	closeAll(firstTheirs, fresh[0], fresh[1])
}

func TestWatchOfWhatCannotBeWatched(t *testing.T) {
	l := newManual(t)
	if err := l.Watch(1000, ready(nil)); err == nil || !errors.Is(err, unix.EBADF) {
		t.Errorf("Watch = %v", err)
	}
	l.Forget(1000)
	l.Forget(100_000)
}

// Posts of one thread run in their order, each once, whatever others do.
func TestPostsFromManyThreads(t *testing.T) {
	const threads, posts = 8, 2000
	l := newLoop(t)
	next := make([]int, threads) // the loop's
	var posters sync.WaitGroup
	for thread := range threads {
		posters.Go(func() {
			for i := range posts {
				if err := l.Post(func() {
					if next[thread] != i {
						t.Errorf("thread %d: post %d ran when %d was due", thread, i, next[thread])
					}
					next[thread]++
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	posters.Wait()
	if err := l.Do(func() {
		for thread, n := range next {
			if n != posts {
				t.Errorf("thread %d: %d of %d posts ran", thread, n, posts)
			}
		}
	}); err != nil {
		t.Error(err)
	}
}

// Two loops that wait for each other are woken each time, and so are those who wait for both.
func TestWakeUpsAreNotLost(t *testing.T) {
	const rounds = 3000
	a, b := newLoop(t), newLoop(t)
	done := make(chan struct{})
	left := rounds
	var ping, pong func()
	ping = func() {
		if left--; left == 0 {
			close(done)
			return
		}
		_ = b.Post(pong)
	}
	pong = func() { _ = a.Post(ping) }
	_ = a.Post(ping)
	var askers sync.WaitGroup
	for _, l := range []*Loop{a, b} {
		askers.Go(func() {
			for range rounds / 10 {
				if err := l.Do(func() {}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("a wake-up was lost")
	}
	askers.Wait()
}

// A post and a timer that is due in the same moment, over and over, with a thread that really waits.
func TestWakeUpsBetweenTimers(t *testing.T) {
	l := newLoop(t)
	fired := make(chan struct{}, 1)
	timer := &Timer{Run: func() { fired <- struct{}{} }}
	for i := range 200 {
		wait := time.Duration(i%4) * time.Millisecond
		_ = l.Do(func() { l.After(timer, wait) })
		_ = l.Do(func() {})
		select {
		case <-fired:
		case <-time.After(patience):
			t.Fatal("a timer never fired")
		}
	}
}

func TestClose(t *testing.T) {
	before := descriptors(t)
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	blocked, release := make(chan struct{}), make(chan struct{})
	_ = l.Post(func() {
		close(blocked)
		<-release
	})
	<-blocked
	for range 10 {
		_ = l.Post(func() { ran++ })
	}
	close(release)
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(l.Close)
	}
	closers.Wait()
	if ran != 10 {
		t.Errorf("%d of 10 posts ran before the end", ran)
	}
	if err := l.Post(func() { t.Error("ran after the end") }); !errors.Is(err, ErrClosed) {
		t.Errorf("Post = %v", err)
	}
	if err := l.Do(func() { t.Error("ran after the end") }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do = %v", err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func TestCloseOfAManualLoop(t *testing.T) {
	l, err := Manual()
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	_ = l.Post(func() { ran = true })
	l.Close()
	l.Close()
	if !ran {
		t.Error("what was posted did not run")
	}
}

// Every connection is accepted once, by one of the loops that share the listener.
func TestListenerOfTwoLoops(t *testing.T) {
	const connections = 500
	listener, addr := listen(t)
	var mu sync.Mutex
	accepted := map[*Loop]int{}
	all := make(chan struct{})
	total := 0
	loops := []*Loop{newLoop(t), newLoop(t)}
	for _, l := range loops {
		_ = l.Do(func() {
			if err := l.WatchListener(listener, ready(func(Events) {
				fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				if err != nil {
					return // another was faster
				}
				_ = unix.Close(fd)
				mu.Lock()
				defer mu.Unlock()
				accepted[l]++
				if total++; total == connections {
					close(all)
				}
			})); err != nil {
				t.Error(err)
			}
		})
	}
	for range connections {
		fd := dial(t, addr)
		defer closeAll(fd)
	}
	select {
	case <-all:
	case <-time.After(patience):
		t.Fatalf("%d of %d connections were accepted", total, connections)
	}
	for _, l := range loops {
		_ = l.Do(func() { l.Forget(listener) })
	}
	closeAll(listener)
}

func listen(tb testing.TB) (fd int, addr unix.Sockaddr) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1024))
	}
	if err == nil {
		addr, err = unix.Getsockname(fd)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return fd, addr
}

// dial begins a connection.
func dial(tb testing.TB, addr unix.Sockaddr) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Connect(fd, addr); err != nil && err != unix.EINPROGRESS {
		tb.Fatal(err)
	}
	return fd
}

func TestBuffersAreWholeFewAndGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newManual(t)
		var lent [][]byte
		for range spareBuffers + 3 {
			b := l.Buffer()
			if len(b) != BufferSize {
				t.Fatalf("a buffer of %d bytes", len(b))
			}
			b[0], b[BufferSize-1] = 1, 1
			lent = append(lent, b)
		}
		for _, b := range lent {
			l.Return(b[:10])
		}
		if len(l.buffers.spare) != spareBuffers || len(l.Buffer()) != BufferSize {
			t.Errorf("the loop keeps %d buffers, want %d", len(l.buffers.spare), spareBuffers)
		}
		l.Turn()
		time.Sleep(calm)
		if l.Turn(); len(l.buffers.spare) == 0 {
			t.Error("buffers are given back as soon as they were used")
		}
		time.Sleep(calm)
		if l.Turn(); len(l.buffers.spare) != 0 {
			t.Errorf("an idle loop keeps %d buffers", len(l.buffers.spare))
		}
		if wait := l.Turn(); wait >= 0 {
			t.Errorf("an idle loop wakes up after %v", wait)
		}
	})
}

// What runs every turn costs no allocation.
func TestTurnsDoNotAllocate(t *testing.T) {
	l := newManual(t)
	ours, theirs := socketPair(t)
	var in, out Task
	timer := &Timer{Run: func() {}}
	space := make([]byte, 64)
	in.Run = func() { _, _ = Read(ours, space); l.Output(&out) }
	out.Run = func() { _, _ = Write(ours, space[:1]) }
	if err := l.Watch(ours, ready(func(Events) { l.Input(&in) })); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		_, _ = Write(theirs, space[:1])
		l.After(timer, time.Hour)
		l.Return(l.Buffer())
		l.Turn()
		_, _ = Read(theirs, space)
	}); n != 0 {
		t.Errorf("%v allocations per turn", n)
	}
	l.Release(ours)
	closeAll(theirs)
}

func TestVectors(t *testing.T) {
	a, b := socketPair(t)
	defer closeAll(a, b)
	one, two := []byte("one "), []byte("two")
	piece := func(p []byte) unix.Iovec {
		v := unix.Iovec{Base: &p[0]}
		v.SetLen(len(p))
		return v
	}
	if n, err := WriteVector(a, []unix.Iovec{piece(one), piece(two)}); n != 7 || err != nil {
		t.Errorf("WriteVector = %d, %v", n, err)
	}
	first, second := make([]byte, 2), make([]byte, 10)
	if n, err := ReadVector(b, []unix.Iovec{piece(first), piece(second)}); n != 7 || err != nil || fmt.Sprintf("%s%s", first, second[:5]) != "one two" {
		t.Errorf("ReadVector = %d, %v: %q %q", n, err, first, second)
	}
	if _, err := ReadVector(b, []unix.Iovec{piece(first)}); err != unix.EAGAIN {
		t.Errorf("ReadVector of nothing = %v", err)
	}
}

func TestWhoWatchesInputHearsOfRoomOnlyOnceItAsks(t *testing.T) {
	l := newManual(t)
	a, b := socketPair(t)
	defer unix.Close(a)
	defer unix.Close(b)
	var heard []Events
	if err := l.WatchInput(a, ready(func(events Events) { heard = append(heard, events) })); err != nil {
		t.Fatal(err)
	}
	l.Turn()
	write(t, b, "x")
	l.Turn()
	if err := l.WatchOutput(a); err != nil {
		t.Fatal(err)
	}
	l.Turn()
	if want := []Events{Readable, Readable | Writable}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	l.Forget(a)
	if err := l.WatchOutput(a); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a socket that isn't watched: %v", err)
	}
}
