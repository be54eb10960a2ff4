package loop

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Connecting is a socket whose connection is being made.
type Connecting struct {
	loop    *Loop
	fd      int
	timer   Timer
	tell    Task // of what was known at once
	watched bool
	done    func(error)
}

// ConnectTimeout says that nothing answered.
type ConnectTimeout struct{ After time.Duration }

func (e *ConnectTimeout) Error() string { return fmt.Sprintf("connect: no answer within %s", e.After) }

// AwaitConnect calls done when the non-blocking connect that was begun on fd has succeeded, or with the reason why not; never
// before AwaitConnect has returned. The descriptor isn't watched any more then, and stays the caller's.
//
// Within a machine a connection is made, or refused, while it is begun: then nothing is watched, and done is called at the end of
// the turn.
func (l *Loop) AwaitConnect(fd int, timeout time.Duration, done func(error)) *Connecting {
	c := &Connecting{loop: l, fd: fd, done: done}
	if now := readyFor(fd, Writable); now != 0 {
		c.tell.Run = func() { c.Ready(now) }
		l.Output(&c.tell)
		return c
	}
	c.timer.Run = func() { c.end(&ConnectTimeout{timeout}) }
	l.After(&c.timer, timeout)
	c.watched = true
	if err := l.Watch(fd, c); err != nil {
		_ = l.Post(func() { c.end(err) })
	}
	return c
}

// Cancel gives up; done isn't called any more.
func (c *Connecting) Cancel() {
	if c.done != nil {
		c.stop()
		c.done = nil
	}
}

// Ready implements Handler.
func (c *Connecting) Ready(events Events) {
	switch {
	case events.Has(Broken):
		c.end(c.failure())
	case events.Has(Writable):
		c.end(nil)
	}
}

func (c *Connecting) failure() error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		err = fmt.Errorf("connect: %w", err)
	}
	return err
}

func (c *Connecting) end(err error) {
	if c.done != nil {
		c.stop()
		done := c.done
		c.done = nil
		done(err)
	}
}

func (c *Connecting) stop() {
	c.loop.Stop(&c.timer)
	if c.watched {
		c.loop.Forget(c.fd)
	}
}
