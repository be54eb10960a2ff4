package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

const (
	handshakeTime = 10 * time.Second
	// maxUnread is how many bytes the user may be given and not have taken, at which no more is read.
	maxUnread = 128 << 10
	// lingerTime is how long a server is waited for that has heard that we are done.
	lingerTime = time.Second
)

var errTruncated = errors.New("TLS: the server ended the connection without saying so within TLS: something may be missing")

// client is one side of TLS: the user of a pipe of records, and the carrier of one of what is in them. The handshake is made beside the loop;
// after it crypto/tls is called on the loop, where it never waits: what isn't there yet is an error that passes.
type client struct {
	about   string
	records *pipe.Pipe
	plain   *pipe.Pipe
	conn    *tls.Conn
	wire    *wire
	cancel  context.CancelFunc
	done    func(*pipe.Pipe, string, error) // nil after the handshake
	unread  int
	held    bool // records wait because of that
	ended   bool // the server sends no more
	ending  bool // nor do we
	over    bool
	linger  loop.Timer
}

// Client speaks TLS through a pipe, which it takes over, and calls done once, after it has returned, with the pipe within and the protocol that the
// server has chosen among those that were offered, "" for none; unless it is cancelled, which is for before done.
func Client(records *pipe.Pipe, p *Policy, protocols []string, done func(within *pipe.Pipe, protocol string, err error)) (cancel func()) {
	l := records.Loop()
	c := &client{about: p.about, records: records, done: done}
	c.plain = pipe.Over(l, c)
	c.linger.Run = c.lingered
	c.wire = newWire(func() { _ = l.Post(c.step) }) // fails only when the loop and all on it has ended
	config := p.config.Clone()
	config.NextProtos = protocols
	c.conn = tls.Client(c.wire, config)
	var ctx context.Context
	ctx, c.cancel = context.WithTimeout(context.Background(), handshakeTime)
	go func() { // ends when the handshake does, or its time, or it is cancelled
		err := c.conn.HandshakeContext(ctx)
		_ = l.Post(func() { c.shaken(err) })
	}()
	records.Start(c)
	return c.abandon
}

func (c *client) abandon() {
	if c.done != nil {
		c.done = nil
		c.Reset()
	}
}

// step passes on what the handshake has to say, and has more given to it.
func (c *client) step() {
	if c.done != nil {
		c.send()
		c.records.Resume()
	}
}

func (c *client) send() {
	if out := c.wire.output(); len(out) > 0 {
		c.records.Write(out)
	}
}

// shaken is the end of the handshake.
func (c *client) shaken(err error) {
	c.cancel()
	if c.done == nil {
		return
	}
	done := c.done
	c.done = nil
	c.send()
	if err != nil {
		c.over = true
		c.records.End() // so that the server hears why
		c.records.Loop().After(&c.linger, lingerTime)
		done(nil, "", c.unproven(err))
		return
	}
	c.wire.calm(c.records.Write)
	done(c.plain, c.conn.ConnectionState().NegotiatedProtocol, nil)
	c.records.Resume()
	c.pull() // what came with the handshake's last words
}

// unproven says whose wish it was to speak TLS, as those who read it look at the server first.
func (c *client) unproven(err error) error {
	return fmt.Errorf("TLS as %s asks for it: %w", c.about, err)
}

// Receive implements pipe.User.
func (c *client) Receive(p []byte, end bool) int {
	switch {
	case c.over || c.ended:
		return len(p)
	case c.done != nil:
		return c.wire.feed(p, end)
	case c.unread >= maxUnread:
		c.held = true
		return 0
	}
	c.wire.in, c.wire.ended = append(c.wire.in, p...), end
	c.pull()
	return len(p)
}

// pull reads all that there is.
func (c *client) pull() {
	l := c.records.Loop()
	buffer := l.Buffer()
	defer l.Return(buffer)
	for !c.over && !c.ended {
		n, err := c.conn.Read(buffer)
		if n > 0 {
			c.unread += n
			c.plain.Received(buffer[:n])
		}
		switch {
		case err == nil || c.over:
		case errors.Is(err, errLater):
			return
		case err == io.EOF && !c.wire.ended:
			c.ended = true
			c.plain.Ended()
			c.endIfOver()
		case err == io.EOF:
			c.broken(errTruncated)
		default:
			c.broken(err)
		}
	}
}

// Consumed implements pipe.Carrier.
func (c *client) Consumed(n int) {
	if c.unread -= n; c.held && c.unread <= maxUnread/2 {
		c.held = false
		c.records.Resume()
	}
}

// Write implements pipe.Carrier.
func (c *client) Write(p []byte) {
	if c.over || c.ending || len(p) == 0 {
		return
	}
	if _, err := c.conn.Write(p); err != nil {
		_ = c.records.Loop().Post(func() { c.broken(err) }) // fails only when the loop and all on it has ended
	}
}

// Waiting implements pipe.Carrier.
func (c *client) Waiting() int { return c.records.Waiting() }

// End implements pipe.Carrier.
func (c *client) End() {
	if c.over || c.ending {
		return
	}
	c.ending = true
	_ = c.conn.CloseWrite() // fails only after another error
	c.records.End()
	c.endIfOver()
}

// endIfOver gives a server that has ended, as we have, a while to end its connection as well.
func (c *client) endIfOver() {
	if c.ended && c.ending {
		c.records.Loop().After(&c.linger, lingerTime)
	}
}

// lingered ends the connection; one whose handshake has gone well not before the server has taken what was sent.
func (c *client) lingered() {
	if !c.over && c.records.Waiting() > 0 {
		c.endIfOver()
		return
	}
	c.records.Reset()
}

// Reset implements pipe.Carrier.
func (c *client) Reset() {
	c.over = true
	c.cancel()
	c.records.Loop().Stop(&c.linger)
	c.records.Reset()
}

func (c *client) broken(err error) {
	if !c.over {
		c.Reset()
		c.plain.Broken(err)
	}
}

// Sent implements pipe.User.
func (c *client) Sent() {
	if !c.over && c.done == nil {
		c.plain.Sent(0)
	}
}

// Broken implements pipe.User.
func (c *client) Broken(err error) {
	c.records.Loop().Stop(&c.linger)
	switch {
	case c.over:
	case c.done != nil:
		done := c.done
		c.abandon()
		done(nil, "", c.unproven(err))
	default:
		c.broken(err)
	}
}
