package onloop

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// Clockwork is a loop in fake time, with a connection: one end is a test's, by Say and Hear, the other is for a loop's code.
type Clockwork struct {
	T    *testing.T
	Loop *loop.Loop
	FD   int // for the loop's code, which takes it over
	own  int
}

// InFakeTime runs a test in a bubble of testing/synctest. done is called at its end; it must let go of FD.
func InFakeTime(t *testing.T, test func(c *Clockwork) (done func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, err := loop.Manual()
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &Clockwork{T: t, Loop: l, FD: fds[0], own: fds[1]}
		done := test(c)
		_ = unix.Close(c.own)
		done()
		c.Pass(time.Minute)
		l.Close()
	})
}

// Pass lets time pass, and the loop do what it has to.
func (c *Clockwork) Pass(d time.Duration) {
	end := time.Now().Add(d)
	for {
		wait := c.Loop.Turn()
		left := time.Until(end)
		switch {
		case wait == 0:
		case left <= 0:
			return
		case wait < 0 || wait > left:
			time.Sleep(left)
		default:
			time.Sleep(wait)
		}
	}
}

// Say sends to the loop's code.
func (c *Clockwork) Say(text string) {
	c.T.Helper()
	if _, err := unix.Write(c.own, []byte(text)); err != nil {
		c.T.Fatal(err)
	}
	c.Pass(0)
}

// End ends the test's direction.
func (c *Clockwork) End() { _ = unix.Shutdown(c.own, unix.SHUT_WR) }

// Hear returns what has come, with "|" after it if the end has.
func (c *Clockwork) Hear() string {
	c.T.Helper()
	var all strings.Builder
	p := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c.own, p)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return all.String()
		case err != nil || n == 0:
			return all.String() + "|"
		}
		all.Write(p[:n])
		c.Pass(0)
	}
}

// Sip reads up to n bytes of what has come.
func (c *Clockwork) Sip(n int) { _, _ = unix.Read(c.own, make([]byte, n)) }
