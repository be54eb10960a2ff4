package h2c

import (
	"fmt"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// side is whom a stream tells what comes: an exchange.Server on a Server, an exchange.Client on a Client.
type side interface {
	Data(p []byte)
	End(trailers []exchange.Field)
	Abort(err error)
	Consumed(n int)
}

// stream is one exchange on a connection, in either role.
type stream struct {
	conn   *conn
	id     uint32
	to     side    // nil when the exchange is over
	call   *call   // on a Client
	answer *answer // on a Server

	began time.Time // the exchange, on a Server

	// What comes.
	given   int   // bytes that the other side hasn't consumed
	left    int64 // bytes that are still to come, as the head says; negative if it doesn't
	arrived bool  // the peer has ended

	// What goes.
	queue    loop.Backlog
	moved    time.Time // something of the queue has last gone, or it has begun
	owed     int       // bytes that we haven't said Consumed for
	finished bool
	trailers []hpack.HeaderField
}

// data hands on what has come.
func (s *stream) data(p []byte, end bool) {
	if s.answer != nil && s.answer.early() {
		s.conn.core.Consumed(s.id, len(p))
		s.fault(h2.ProtocolError, errEarly)
		return
	}
	if len(p) > 0 {
		if s.left >= 0 {
			if s.left -= int64(len(p)); s.left < 0 {
				s.fault(h2.ProtocolError, errLength)
				return
			}
		}
		s.given += len(p)
		s.to.Data(p)
	}
	if end {
		s.end(nil)
	}
}

// end hands on the end of what comes.
func (s *stream) end(trailers []exchange.Field) {
	if s.to == nil {
		return
	}
	switch {
	case s.left > 0:
		s.fault(h2.ProtocolError, errLength)
		return
	case s.answer != nil && s.answer.early():
		s.fault(h2.ProtocolError, errEarly)
		return
	}
	s.arrived = true
	if s.call == nil {
		s.to.End(trailers)
		return
	}
	to := s.to // the end of an answer is that of the exchange
	s.leave()
	if !s.finished || s.queue.Len() > 0 {
		s.reset(h2.Cancel)
	} else {
		s.conn.forget(s)
	}
	to.End(trailers)
}

// consumed opens the peer's window.
func (s *stream) consumed(n int) {
	if s.to == nil {
		return
	}
	s.given -= n
	s.conn.core.Consumed(s.id, n)
	s.conn.flush()
}

// leave ends the exchange: nobody is told anything any more. What the other side hasn't consumed, it will not.
func (s *stream) leave() {
	s.to = nil
	s.conn.core.Consumed(s.id, s.given)
	s.given = 0
}

// peerReset takes an RST_STREAM, or what the peer did to deserve one.
func (s *stream) peerReset(ev h2.Event) {
	err := fmt.Errorf("the peer reset the stream with %s", ev.Code)
	if a := s.answer; a != nil && !ev.Local && !a.responded && s.conn.now().Sub(s.began) >= patientTime {
		s.conn.core.Pardon() // who waits in vain is no attacker
	}
	switch {
	case ev.Local:
		err = fmt.Errorf("the peer broke a rule on the stream: %s", ev.Code)
	case ev.Code == h2.RefusedStream:
		err = &exchange.NotProcessed{Err: err}
	}
	s.abort(err)
}

// fault resets a stream whose peer broke a rule that isn't the core's.
func (s *stream) fault(code h2.Code, err error) {
	s.conn.core.Refuse(s.id, nil, code)
	s.abort(err)
}

// reset ends the stream for the peer.
func (s *stream) reset(code h2.Code) {
	s.conn.core.Reset(s.id, code)
	s.conn.forget(s)
	s.conn.flush()
}

// abort ends the exchange by the peer's fault, and the stream with it.
func (s *stream) abort(err error) {
	to := s.to
	s.to = nil
	s.conn.forget(s)
	if to != nil {
		to.Abort(err)
	}
}

// send sends bytes, or queues what can't go now.
func (s *stream) send(p []byte) {
	s.owed += len(p)
	c := s.conn
	c.noteWriting()
	if s.queue.Len() == 0 && !c.flushes && c.pipe.Waiting() < lowWater {
		c.core.Ready(s.id)
		if id, n := c.core.Next(); id == s.id {
			n = min(n, len(p))
			c.control()
			s.frame(p[:n])
			p = p[n:]
		}
	}
	if len(p) > 0 {
		if s.queue.Len() == 0 {
			s.moved = c.now()
		}
		s.queue.Push(p)
		c.core.Ready(s.id)
		c.flush()
	}
	s.release()
}

// frame sends a DATA frame.
func (s *stream) frame(p []byte) {
	c := s.conn
	c.pipe.Write(c.core.AppendData(c.header[:0], s.id, len(p), false))
	c.pipe.Write(p)
}

// sendQueued sends a frame of what waits, at most n bytes.
func (s *stream) sendQueued(n int) {
	p := s.queue.First()
	p = p[:min(n, len(p))]
	s.frame(p)
	s.queue.Skip(len(p))
	s.moved = s.conn.now()
	if s.queue.Len() > 0 {
		s.conn.core.Ready(s.id)
	} else if s.finished {
		s.sayEnd()
	}
	s.release()
}

// release says Consumed for what the pipe has.
func (s *stream) release() {
	if n := s.owed - s.queue.Len(); n > 0 && s.to != nil && !s.finished {
		s.owed -= n
		s.to.Consumed(n)
	}
}

// finish ends our direction when all that waits is sent.
func (s *stream) finish(trailers []hpack.HeaderField) {
	s.finished, s.trailers = true, trailers
	if s.queue.Len() == 0 {
		s.sayEnd()
		s.conn.flush()
	}
}

// sayEnd sends the end of our direction. When the exchange is over as well, nothing is left of the stream.
func (s *stream) sayEnd() {
	c := s.conn
	if s.trailers == nil {
		c.core.Finish(s.id)
	} else if err := c.core.Headers(s.id, s.trailers, true); err != nil {
		c.core.Reset(s.id, h2.InternalError)
	}
	if s.to == nil {
		s.done()
	}
}

// done lets go of a stream on which everything is said. What the peer still sends isn't wanted (RFC 9113 section 8.1).
func (s *stream) done() {
	if !s.arrived {
		s.conn.core.Reset(s.id, h2.NoError)
	}
	s.conn.forget(s)
}
