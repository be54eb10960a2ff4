package h2c

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// role is what a Server and a Client do differently with a conn.
type role interface {
	headers(s *stream, ev h2.Event) // the head of a request, of an answer, or of an interim one; s is nil if the stream is new
	event(ev h2.Event)              // GOAWAY, or settings
	freed()                         // a stream is gone
	pingTime() time.Duration        // in which nothing has come, until the peer is asked for a sign of life
	ended(err error)                // the connection is over: nothing comes any more, and all streams are gone
}

// conn is a connection of either role: it moves bytes between its pipe and the state of mesh/h2, and events between that and the streams.
type conn struct {
	role    role
	pipe    *pipe.Pipe
	core    *h2.Conn
	streams map[uint32]*stream
	ticked  time.Time
	flushes bool // flush is running
	closing bool // we have said our last
	parted  bool // the peer has
	over    bool
	header  [h2.FrameHeaderLen]byte
	fields  []hpack.HeaderField // of a head that is being sent
	idle    time.Duration       // how long to go on without streams; 0 means for ever

	heard time.Time // something has last come
	asked time.Time // for a sign of life, since when nothing has come; zero if we haven't

	since time.Time // the last stream has gone, or we have said our last
	sent  time.Time // the pipe has last taken something, or begun to wait
	clock loop.Timer
	alarm time.Time // that the clock is set to
}

func (c *conn) start(r role, p *pipe.Pipe, cfg h2.Config) {
	now := p.Loop().Now()
	c.role, c.pipe, c.core, c.streams = r, p, h2.New(cfg), make(map[uint32]*stream)
	c.ticked, c.since, c.heard = now, now, now
	c.clock.Run = c.tick
	p.Start(c)
	c.wake(now.Add(greetTime))
	c.flush()
}

func (c *conn) now() time.Time { return c.pipe.Loop().Now() }

// Receive implements pipe.User. Back-pressure is that of the streams, so everything is taken, unless the peer reads nothing.
func (c *conn) Receive(p []byte, end bool) int {
	now := c.now()
	c.heard, c.asked = now, time.Time{}
	if now.Sub(c.ticked) >= tickTime {
		c.ticked = now
		c.core.Tick()
	}
	rest := p
	for len(rest) > 0 && !c.over && !c.closing {
		if c.pipe.Waiting() > highWater {
			c.flush()
			return len(p) - len(rest)
		}
		n, ev, err := c.core.Receive(rest)
		rest = rest[n:]
		if err == nil && ev.Kind != h2.None {
			c.handle(ev)
			err = c.core.Err()
		}
		if err != nil {
			c.die(err)
		}
	}
	c.flush()
	if end && !c.parted {
		c.parted = true
		c.die(io.EOF)
		c.endIfOver()
	}
	return len(p)
}

func (c *conn) handle(ev h2.Event) {
	s := c.streams[ev.Stream]
	switch ev.Kind {
	case h2.EventHeaders:
		c.role.headers(s, ev)
	case h2.EventData:
		if s == nil || s.to == nil {
			c.core.Consumed(ev.Stream, len(ev.Data))
		} else {
			s.data(ev.Data, ev.EndStream)
		}
	case h2.EventReset:
		if s != nil {
			s.peerReset(ev)
		}
	case h2.EventGoAway, h2.EventSettings:
		c.role.event(ev)
	}
}

// flush gives the pipe what there is to send, as much as it should have.
func (c *conn) flush() {
	if c.flushes || c.over {
		return
	}
	c.flushes = true
	c.noteWriting()
	c.control()
	for c.pipe.Waiting() < lowWater {
		id, n := c.core.Next()
		if n == 0 {
			break
		}
		if s := c.streams[id]; s == nil || s.queue.Len() == 0 {
			c.core.Unready(id)
		} else {
			s.sendQueued(n)
		}
		c.control()
	}
	c.flushes = false
	c.endIfDrained()
}

// control gives the pipe the frames that aren't DATA. They are few enough to go whatever waits.
func (c *conn) control() {
	if p := c.core.Control(); len(p) > 0 {
		c.pipe.Write(p)
		c.core.Said(len(p))
	}
}

// Sent implements pipe.User.
func (c *conn) Sent() {
	c.sent = c.now()
	c.flush()
	c.endIfOver()
	c.pipe.Resume()
}

// noteWriting notes when the pipe has begun to have something that waits.
func (c *conn) noteWriting() {
	if c.pipe.Waiting() == 0 {
		c.sent = c.now()
	}
}

// Broken implements pipe.User.
func (c *conn) Broken(err error) {
	c.parted = true
	c.end(err)
}

// die ends the connection by a fault, of ours or theirs, which the peer is told.
func (c *conn) die(err error) {
	if c.closing || c.over {
		return
	}
	c.core.Close(h2.NoError, "") // unless the core itself found the fault and said so
	c.control()
	c.close()
	c.abortAll(err)
}

// close ends our direction when all is said, and gives the peer a while to end its own.
func (c *conn) close() {
	if !c.closing && !c.over {
		c.closing, c.since = true, c.now()
		c.pipe.End()
		c.wake(c.since.Add(lingerTime))
	}
}

func (c *conn) abortAll(err error) {
	for _, s := range c.streams {
		if c.parted && s.call != nil && !s.call.begun() {
			s.abort(fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err))
		} else {
			s.abort(err)
		}
	}
}

// end is the connection's end, when the peer's has come or isn't waited for.
func (c *conn) end(err error) {
	if c.over {
		return
	}
	c.over = true
	c.pipe.Loop().Stop(&c.clock)
	if !c.closing || !c.parted || c.pipe.Waiting() > 0 {
		c.pipe.Reset()
	}
	c.abortAll(err)
	c.role.ended(err)
}

// endIfOver ends a connection whose both directions have.
func (c *conn) endIfOver() {
	if c.closing && c.parted && c.pipe.Waiting() == 0 {
		c.end(errPeerGone)
	}
}

// endIfDrained closes a connection that takes no more streams and has none.
func (c *conn) endIfDrained() {
	if len(c.streams) == 0 && c.core.GoneAway() {
		c.close()
	}
}

// add takes a stream on.
func (c *conn) add(s *stream) {
	c.streams[s.id] = s
	c.wake(c.now().Add(min(stallTime, c.role.pingTime())))
}

// forget takes a stream off.
func (c *conn) forget(s *stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	s.queue.Clear()
	if len(c.streams) == 0 {
		c.since = c.now()
	}
	if !c.over && !c.closing {
		c.role.freed()
	}
}

// due is when the peer has to have done what is waited for; if nothing is, it's when to look again.
func (c *conn) due() time.Time {
	switch {
	case c.closing:
		return c.since.Add(lingerTime)
	case !c.core.Settled():
		return c.since.Add(greetTime)
	case c.pipe.Waiting() > 0:
		return c.sent.Add(stallTime)
	case len(c.streams) > 0 && !c.asked.IsZero():
		return c.asked.Add(answerTime)
	case len(c.streams) > 0:
		return c.heard.Add(c.role.pingTime())
	case c.idle > 0:
		return c.since.Add(c.idle)
	}
	return c.now().Add(stallTime)
}

// resetStalled ends the exchanges of which the peer has taken nothing for long: its windows are closed, and what waits for them is held here. While
// the pipe is full, others may be what they wait for.
func (c *conn) resetStalled() {
	if c.closing || c.over || c.pipe.Waiting() >= lowWater {
		return
	}
	var stalled []*stream
	for _, s := range c.streams {
		if s.queue.Len() > 0 && c.now().Sub(s.moved) >= stallTime {
			stalled = append(stalled, s)
		}
	}
	for _, s := range stalled {
		c.core.Reset(s.id, h2.Cancel)
		s.abort(errStalled)
	}
	if len(stalled) > 0 {
		c.flush()
	}
}

func (c *conn) tick() {
	c.alarm = time.Time{}
	c.resetStalled()
	if due := c.due(); c.now().Before(due) {
		c.wake(due)
		return
	}
	switch {
	case c.closing || c.pipe.Waiting() > 0:
		c.end(errStalled)
	case !c.core.Settled():
		c.die(errNoSettings)
	case len(c.streams) > 0 && c.asked.IsZero():
		c.asked = c.now()
		c.core.Ping(0)
		c.wake(c.due())
		c.flush()
	case len(c.streams) > 0:
		c.end(errDead)
	default:
		c.die(errIdle)
	}
}

// wake sets the clock, unless it rings earlier: most of what it is set for has long happened when it does.
func (c *conn) wake(due time.Time) {
	if c.alarm.IsZero() || due.Before(c.alarm) {
		c.alarm = due
		c.pipe.Loop().Set(&c.clock, due)
	}
}
