package pipe

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a user that keeps what comes. Its fields are the loop's.
type recorder struct {
	p      *Pipe
	take   func(p []byte) int // how much it takes; nil for everything
	got    []byte
	ended  bool
	broken error
	more   func() // after Sent
}

func (r *recorder) Receive(p []byte, end bool) int {
	n := len(p)
	if r.take != nil {
		n = r.take(p)
	}
	r.got = append(r.got, p[:n]...)
	r.ended = r.ended || (end && n == len(p))
	return n
}

func (r *recorder) Sent() {
	if r.more != nil {
		r.more()
	}
}

func (r *recorder) Broken(err error) { r.broken = err }

// pour writes content as far as lets no more than 64 KiB wait, and then the end.
func (r *recorder) pour(content []byte) (written func() int) {
	n := 0
	r.more = func() {
		for n < len(content) && r.p.Waiting() < 64<<10 {
			piece := content[n:min(len(content), n+10_000)]
			r.p.Write(piece)
			n += len(piece)
		}
		if n == len(content) {
			r.p.End()
		}
	}
	r.more()
	return func() int { return n }
}

func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = src.Read(p)
	return p
}

// kinds are what carries a pipe, and how to make both ends of one.
var kinds = map[string]func(*testing.T, *loop.Loop) (a, b *Pipe){
	"socket": func(t *testing.T, l *loop.Loop) (a, b *Pipe) {
		released := 0
		conn, near := onloop.Socket(t)
		far := onloop.Take(t, conn)
		onloop.Do(t, l, func() {
			a = OverSocket(l, near, func() { released++ })
			b = OverSocket(l, far, func() { released++ })
		})
		t.Cleanup(func() {
			onloop.Eventually(t, l, "both sockets to be closed once", func() bool { return released == 2 })
		})
		return a, b
	},
	"tunnel": func(t *testing.T, l *loop.Loop) (a, b *Pipe) {
		onloop.NewTunnels(t, l).Stream(
			func(s *hbone.Stream) { a = OverStream(l, s) },
			func(s *hbone.Stream) { b = OverStream(l, s) })
		return a, b
	},
}

// each runs a test over each kind, with a user at both ends. Pipes that the test leaves are reset.
func each(t *testing.T, test func(t *testing.T, l *loop.Loop, a, b *recorder)) {
	for name, dial := range kinds {
		t.Run(name, func(t *testing.T) {
			l := onloop.New(t)
			a, b := new(recorder), new(recorder)
			a.p, b.p = dial(t, l)
			t.Cleanup(func() {
				onloop.Do(t, l, func() { a.p.Reset(); b.p.Reset() })
			})
			onloop.Do(t, l, func() { a.p.Start(a); b.p.Start(b) })
			test(t, l, a, b)
		})
	}
}

func TestBytesArriveInOrderWithTheirEnd(t *testing.T) {
	each(t, func(t *testing.T, l *loop.Loop, a, b *recorder) {
		there, back := noise(3_000_000, 1), noise(2_000_000, 2)
		onloop.Do(t, l, func() { a.pour(there) })
		onloop.Eventually(t, l, "one direction", func() bool { return b.ended })
		onloop.Do(t, l, func() {
			if a.ended {
				t.Error("the other direction has ended too")
			}
			b.pour(back)
		})
		onloop.Eventually(t, l, "the other direction", func() bool { return a.ended })
		onloop.Do(t, l, func() {
			if !bytes.Equal(b.got, there) || !bytes.Equal(a.got, back) || a.broken != nil || b.broken != nil {
				t.Errorf("%d and %d bytes arrived, %v, %v", len(b.got), len(a.got), a.broken, b.broken)
			}
		})
	})
}

// What a user doesn't take is given again, in one piece with what comes next.
func TestWhatIsNotTakenIsGivenAgain(t *testing.T) {
	each(t, func(t *testing.T, l *loop.Loop, a, b *recorder) {
		const record = 1000
		var lengths []int
		onloop.Do(t, l, func() {
			b.take = func(p []byte) int {
				lengths = append(lengths, len(p))
				return len(p) / record * record
			}
			a.p.Write(noise(300, 1))
		})
		onloop.Eventually(t, l, "the beginning", func() bool { return len(lengths) > 0 })
		onloop.Do(t, l, func() { a.p.Write(noise(900, 2)) })
		want := append(noise(300, 1), noise(900, 2)[:700]...)
		onloop.Eventually(t, l, "a record", func() bool { return len(b.got) >= record })
		onloop.Do(t, l, func() {
			if !bytes.Equal(b.got, want) {
				t.Errorf("got other bytes than were sent, in pieces of %v", lengths)
			}
			b.take = nil
			b.p.Resume()
		})
		onloop.Eventually(t, l, "the rest on request", func() bool { return len(b.got) == 1200 })
	})
}

func TestWhoTakesNothingStopsTheSender(t *testing.T) {
	each(t, func(t *testing.T, l *loop.Loop, a, b *recorder) {
		content := noise(64<<20, 3)
		var written func() int
		onloop.Do(t, l, func() {
			b.take = func([]byte) int { return 0 }
			written = a.pour(content)
		})
		last := -1
		onloop.Eventually(t, l, "the sender to stop", func() bool {
			stopped := written() == last && a.p.Waiting() > 0
			last = written()
			return stopped
		})
		onloop.Do(t, l, func() {
			if kept := len(b.p.rest); kept > 5<<20 {
				t.Errorf("%d bytes are kept", kept)
			}
			b.take = nil
			b.p.Resume()
		})
		onloop.Eventually(t, l, "all to come", func() bool { return b.ended })
		onloop.Do(t, l, func() {
			if !bytes.Equal(b.got, content) {
				t.Errorf("%d bytes came", len(b.got))
			}
		})
	})
}

// One user looks at the beginning, and leaves all of it to another.
func TestStartHandsOnWhatIsNotTaken(t *testing.T) {
	each(t, func(t *testing.T, l *loop.Loop, a, b *recorder) {
		second := &recorder{p: b.p}
		onloop.Do(t, l, func() {
			b.take = func(p []byte) int {
				if len(p) >= 4 {
					b.p.Start(second)
				}
				return 0
			}
			a.p.Write([]byte("GET / and more"))
			a.p.End()
		})
		onloop.Eventually(t, l, "the second user to have everything", func() bool { return second.ended })
		onloop.Do(t, l, func() {
			if string(second.got) != "GET / and more" || b.ended || len(b.got) > 0 {
				t.Errorf("the second user got %q, the first %q", second.got, b.got)
			}
		})
	})
}

func TestResetBreaksTheOtherEnd(t *testing.T) {
	each(t, func(t *testing.T, l *loop.Loop, a, b *recorder) {
		onloop.Do(t, l, func() { a.p.Write([]byte("hello")) })
		onloop.Eventually(t, l, "the greeting", func() bool { return len(b.got) == 5 })
		onloop.Do(t, l, func() {
			a.p.Reset()
			a.p.Reset()
			a.p.Write([]byte("too late"))
			a.p.End()
		})
		onloop.Eventually(t, l, "the end", func() bool { return b.broken != nil })
		onloop.Do(t, l, func() {
			if !errors.Is(b.broken, syscall.ECONNRESET) || a.broken != nil {
				t.Errorf("the other hears %v, we hear %v", b.broken, a.broken)
			}
		})
	})
}

// What a server said before it broke the connection is heard by who still sends.
func TestLastWordsAreHeardByWhoStillSends(t *testing.T) {
	l := onloop.New(t)
	conn, fd := onloop.Socket(t)
	var r recorder
	onloop.Do(t, l, func() {
		r.p = OverSocket(l, fd, nil)
		r.p.Start(&r)
		r.pour(noise(64<<20, 4))
	})
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("no more of that")); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close() // with unread bytes, which makes it a reset
	onloop.Eventually(t, l, "the end", func() bool { return r.broken != nil })
	onloop.Do(t, l, func() {
		if string(r.got) != "no more of that" {
			t.Errorf("heard %q", r.got)
		}
	})
}

// joinedPair makes two connections whose inner ends are joined.
func joinedPair(t *testing.T, l *loop.Loop) (near, far *net.TCPConn, session *relay.Session, done chan relay.Result) {
	near, a := onloop.Socket(t)
	far, d := onloop.Socket(t)
	done = make(chan relay.Result, 2)
	tunnels := onloop.NewTunnels(t, l)
	var b, c *Pipe
	tunnels.Stream(func(s *hbone.Stream) { b = OverStream(l, s) }, func(s *hbone.Stream) { c = OverStream(l, s) })
	onloop.Do(t, l, func() {
		session = Join(OverSocket(l, a, nil), b, func(r relay.Result) { done <- r })
		Join(c, OverSocket(l, d, nil), func(relay.Result) {})
	})
	return near, far, session, done
}

func TestJoinedPipesRelayBothWays(t *testing.T) {
	l := onloop.New(t)
	near, far, _, done := joinedPair(t, l)
	there, back := noise(9_000_000, 5), noise(4_000_000, 6)
	go func() {
		_, _ = near.Write(there)
		_ = near.CloseWrite()
	}()
	if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, there) {
		t.Errorf("%d bytes there, %v", len(got), err)
	}
	go func() {
		_, _ = far.Write(back)
		_ = far.CloseWrite()
	}()
	if got, err := io.ReadAll(near); err != nil || !bytes.Equal(got, back) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	if r := <-done; r.Err != nil || r.Sent != uint64(len(there)) || r.Received != uint64(len(back)) {
		t.Errorf("result %+v", r)
	}
}

func TestJoinedPipesPassResetsOn(t *testing.T) {
	reason := errors.New("policy")
	for name, end := range map[string]func(near *net.TCPConn, s *relay.Session){
		"by an application": func(near *net.TCPConn, _ *relay.Session) { _ = near.SetLinger(0); _ = near.Close() },
		"by Cut":            func(_ *net.TCPConn, s *relay.Session) { s.Cut(reason); s.Cut(errors.New("again")) },
	} {
		t.Run(name, func(t *testing.T) {
			l := onloop.New(t)
			near, far, session, done := joinedPair(t, l)
			if _, err := near.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			end(near, session)
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other application reads %v", err)
			}
			if r := <-done; r.Err == nil || (name == "by Cut" && r.Err != reason) {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// A chunk on its way allocates nothing.
func TestJoinedPipesAllocateNothingPerChunk(t *testing.T) {
	l := onloop.New(t)
	near, far, _, _ := joinedPair(t, l)
	const chunks = 64
	p, arrived := make([]byte, chunks<<14), make(chan error)
	go func() {
		defer close(arrived)
		into := make([]byte, len(p))
		for {
			_, err := io.ReadFull(far, into)
			if err == io.EOF {
				return
			}
			arrived <- err
		}
	}()
	pass := func() {
		if _, err := near.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := <-arrived; err != nil {
			t.Fatal(err)
		}
	}
	pass()
	if n := testing.AllocsPerRun(20, pass); n > chunks/2 { // what there is comes of loops that rest, and of pools under the race detector
		t.Errorf("%v allocations for %d chunks", n, chunks)
	}
	_ = near.CloseWrite()
	<-arrived
}

// Who writes to a peer that has closed meanwhile hears that it is broken, also when both have ended by then.
func TestWriteToAPeerThatHasClosed(t *testing.T) {
	for _, end := range []bool{false, true} {
		l := onloop.New(t)
		conn, fd := onloop.Socket(t)
		released := 0
		var r recorder
		onloop.Do(t, l, func() {
			r.p = OverSocket(l, fd, func() { released++ })
			r.p.Start(&r)
		})
		_ = conn.Close()
		onloop.Eventually(t, l, "its end", func() bool { return r.ended })
		for range 2 { // the first is answered by a reset
			onloop.Do(t, l, func() { r.p.Write([]byte("anybody?")) })
		}
		onloop.Do(t, l, func() {
			r.p.Write([]byte("anybody?"))
			if end {
				r.p.End()
			}
		})
		onloop.Eventually(t, l, "the break", func() bool { return r.broken != nil && released == 1 })
	}
}

// eager is a carrier that takes all at once, so that nothing ever waits, as a socket does with large pieces while its peer reads.
type eager struct{ took, consumed int }

func (e *eager) Consumed(n int) { e.consumed += n }
func (e *eager) Write(p []byte) { e.took += len(p) }
func (e *eager) Waiting() int   { return 0 }
func (e *eager) End()           {}
func (e *eager) Reset()         {}

func TestNothingIsLeftBehindWhereAllIsTakenAtOnce(t *testing.T) {
	l := onloop.New(t)
	from, to := &eager{}, &eager{}
	const size = 10*maxWaiting + 1
	onloop.Do(t, l, func() {
		a, b := Over(l, from), Over(l, to)
		a.Received(make([]byte, size)) // before anybody is there
		Join(a, b, func(relay.Result) {})
	})
	onloop.Do(t, l, func() {
		if to.took != size || from.consumed != size {
			t.Errorf("%d of %d bytes were passed on, %d were said to be", to.took, size, from.consumed)
		}
	})
}
