package h1

import (
	"time"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// How long a Server waits. Its clock is set anew only when something is due earlier than it is set to: most of what it is set for has long
// happened when it rings.

func (s *Server) wake(due time.Time) {
	if s.alarm.IsZero() || due.Before(s.alarm) {
		s.alarm = due
		s.pipe.Loop().Set(&s.clock, due)
	}
}

// noteWriting notes when the pipe begins to have something that waits.
func (s *Server) noteWriting() {
	if s.pipe.Waiting() == 0 {
		s.since = s.now()
	}
}

// due is when the client has to have done what is waited for; if nothing is, it's when to look again.
func (s *Server) due() time.Time {
	switch {
	case s.closing && s.pipe.Waiting() == 0:
		return s.since.Add(lingerTime)
	case s.closing:
		return s.since.Add(stallTime)
	case s.answer == nil && s.seen > 0:
		return s.since.Add(s.cfg.HeadTimeout)
	case s.answer == nil && s.body.done && s.draining:
		return s.since.Add(drainTime)
	case s.answer == nil && s.body.done && s.pipe.Waiting() > 0:
		return s.since.Add(stallTime)
	case s.answer == nil && s.body.done:
		return s.since.Add(s.cfg.IdleTimeout)
	case s.parted:
		return s.since.Add(partedTime)
	case s.waiting():
		return s.since.Add(stallTime)
	}
	return s.now().Add(stallTime)
}

// waiting tells whether it's the client's turn to send or to read.
func (s *Server) waiting() bool {
	if s.pipe.Waiting() > 0 {
		return true
	}
	return !s.body.done && s.body.kind != raw && (s.answer == nil || (s.answer.given < exchange.Window && !s.answer.responded))
}

func (s *Server) tick() {
	s.alarm = time.Time{}
	if due := s.due(); s.now().Before(due) {
		s.wake(due)
		return
	}
	switch {
	case s.closing:
		s.reset()
	case s.answer == nil && s.seen > 0:
		s.refuse(&Malformed{408, "the head doesn't come in time"})
	case s.answer == nil: // idle, or the rest of a request doesn't come
		s.close()
	case s.parted:
		s.Broken(errClientGone)
		s.pipe.Reset()
	default: // within an exchange
		s.fault(&Malformed{408, errStalled.Error()})
	}
}
