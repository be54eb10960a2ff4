package hbone

// User is code in this process that a stream ends at, instead of an application's socket. It is called on the tunnel's loop.
type User interface {
	Received(p []byte) // bytes that came, valid during the call; who receives them may change them. Consumed makes room for as many more
	Ended()            // the peer sends no more; all that it sent was given to Received
	Sent(n int)        // n bytes that were given to Write are on their way
	Broken(err error)  // the stream is over before both directions have ended; nothing is called after this
}

// Use has u receive what comes, now and from now on. u is called after Use has returned.
func (s *Stream) Use(u User) {
	s.user = u
	if s.err != nil || s.remoteEnd || s.backlog.Len() > 0 {
		_ = s.t.loop.Post(s.catchUp) // fails only when the loop and all on it has ended
	}
}

// catchUp gives the user what came before it was there.
func (s *Stream) catchUp() {
	if s.user != nil && s.err != nil {
		s.leave(s.err)
	}
	for s.user != nil && s.backlog.Len() > 0 {
		p := s.backlog.First()
		s.user.Received(p)
		if s.err == nil { // else there is no backlog any more
			s.backlog.Skip(len(p))
		}
	}
	s.tellEnd()
}

// give hands on what has come.
func (s *Stream) give(p []byte) {
	if s.backlog.Len() > 0 {
		s.backlog.Push(p) // catchUp comes
		return
	}
	if len(p) > 0 {
		s.user.Received(p)
	}
	s.tellEnd()
}

// tellEnd passes the peer's end on when all before it is given.
func (s *Stream) tellEnd() {
	if s.remoteEnd && !s.shut && s.user != nil && s.backlog.Len() == 0 {
		s.shut = true
		s.user.Ended()
		s.endIfOver()
	}
}

// leave lets go of the user, with the reason if the stream didn't end properly.
func (s *Stream) leave(err error) {
	u := s.user
	s.user = nil
	s.t.forget(s)
	if err != nil {
		u.Broken(err)
	}
}

// Consumed lets the peer send n bytes more, as many as the user has done with. It may be called after the stream's end too.
func (s *Stream) Consumed(n int) {
	s.t.core.Consumed(s.id, n)
	s.t.flush()
}

// Write queues bytes, which are copied, for the end of the turn. How many wait is the user's to bound. After End, or when the stream is over,
// it does nothing.
func (s *Stream) Write(p []byte) {
	if s.user == nil || s.finishing || len(p) == 0 {
		return
	}
	s.out.Push(p)
	s.t.core.Ready(s.id)
	s.t.flush()
}

// Waiting returns how many bytes were given to Write and aren't on their way yet.
func (s *Stream) Waiting() int { return s.out.Len() }

// End ends our direction when all that waits is sent.
func (s *Stream) End() {
	if s.user == nil || s.finishing {
		return
	}
	s.finishing = true
	if s.out.Len() == 0 {
		s.localEnd = true
		s.t.core.Finish(s.id)
		s.t.flush()
		s.endIfOver()
	}
}

// takeInto moves what waits into a batch, at most budget bytes. It tells whether there was something.
func (s *Stream) takeInto(b *batch, budget int) bool {
	if s.out.Len() == 0 {
		return false
	}
	n := b.put(&s.out, s.t.core, s.id, budget, s.finishing)
	if s.out.Len() > 0 {
		s.t.core.Ready(s.id)
	} else {
		s.localEnd = s.finishing
	}
	s.user.Sent(n)
	s.endIfOver()
	return true
}
