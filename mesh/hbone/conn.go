package hbone

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
)

// Conn returns the stream as an ordinary connection that also has CloseWrite.
func (s *Stream) Conn() net.Conn { return &conn{s: s} }

type conn struct {
	s       *Stream
	writing sync.Mutex // one Write at a time

	// Guarded by the tunnel's mu.
	closed    bool
	readOver  deadline
	writeOver deadline
}

// deadline is a point in time at which whoever waits is woken.
type deadline struct {
	timer *time.Timer
	over  bool
}

func (c *conn) Read(p []byte) (int, error) {
	t := c.s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readOver.over:
			return 0, os.ErrDeadlineExceeded
		case !c.s.in.empty():
			n := c.s.in.read(p)
			t.core.Consumed(c.s.id, n)
			t.kick()
			return n, nil
		}
		if err := c.s.end(); err != nil {
			return 0, err
		}
		c.s.changed.Wait()
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.s.write(p, func() error {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.writeOver.over:
			return os.ErrDeadlineExceeded
		}
		return nil
	})
}

// CloseWrite ends our direction; the peer's goes on.
func (c *conn) CloseWrite() error { return c.s.finish() }

// Close ends both directions: properly when the peer has ended and all was read, else our end is clean and the peer is told to
// send no more.
func (c *conn) Close() error {
	t := c.s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.s.err == nil {
		if c.s.sendable() == nil {
			t.core.Finish(c.s.id)
		}
		t.core.Reset(c.s.id, h2.Cancel)
		c.s.fail(net.ErrClosed)
		t.kick()
	}
	for _, d := range []*deadline{&c.readOver, &c.writeOver} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	c.s.changed.Broadcast()
	if c.s.cancel != nil {
		c.s.cancel()
	}
	t.forget(c.s)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.s.t.socket.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.s.t.socket.RemoteAddr() }

func (c *conn) SetDeadline(at time.Time) error {
	_ = c.SetReadDeadline(at)
	return c.SetWriteDeadline(at)
}

func (c *conn) SetReadDeadline(at time.Time) error  { return c.set(&c.readOver, at) }
func (c *conn) SetWriteDeadline(at time.Time) error { return c.set(&c.writeOver, at) }

func (c *conn) set(d *deadline, at time.Time) error {
	t := c.s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.over = nil, false
	switch left := time.Until(at); {
	case at.IsZero():
	case left <= 0:
		d.over = true
		c.s.changed.Broadcast()
	default:
		d.timer = c.expire(d, left)
	}
	return nil
}

func (c *conn) expire(d *deadline, left time.Duration) *time.Timer {
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		c.s.t.mu.Lock()
		defer c.s.t.mu.Unlock()
		if d.timer == timer {
			d.over = true
			c.s.changed.Broadcast()
		}
	})
	return timer
}
