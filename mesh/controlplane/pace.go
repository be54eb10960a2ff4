package controlplane

import (
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// messageGrace is how long a message that has begun may take, and what each paceBytes of it that have come add a second to: a
	// server that answers pings but brings a message byte by byte would be waited for for ever.
	messageGrace = time.Minute
	paceBytes    = 32 << 10
	// maxPartial bounds the messages that have begun at a time, one on each call.
	maxPartial = 256
)

// paced is a connection on which every message has to end. What comes is passed on as it is; it is closed when a message is late.
type paced struct {
	net.Conn

	mu       sync.Mutex
	messages messages
	late     *time.Timer // looks at the oldest message that has begun; nil without one
	err      error       // why it was closed
}

// Read implements net.Conn.
func (c *paced) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return n, c.err
	}
	if full := c.messages.follow(p[:n], time.Now()); full != nil {
		return 0, full
	}
	if c.late == nil && len(c.messages.partial) > 0 {
		c.late = time.AfterFunc(messageGrace, c.look)
	}
	return n, err
}

// look closes the connection if a message is late, or looks again when the first one may be.
func (c *paced) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = nil
	now, next := time.Now(), time.Duration(0)
	for _, m := range c.messages.partial {
		left := m.due().Sub(now)
		if left <= 0 {
			c.err = fmt.Errorf("the control plane brings a message too slowly: %d bytes in %s", m.got, now.Sub(m.begun).Round(time.Second))
			_ = c.Conn.Close()
			return
		}
		if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		c.late = time.AfterFunc(next, c.look)
	}
}

// Close implements net.Conn.
func (c *paced) Close() error {
	c.mu.Lock()
	if c.late != nil {
		c.late.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
