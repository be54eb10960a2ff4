package pipe

import "github.com/tulle-mesh/tulle/mesh/relay"

// maxWaiting is how many bytes a direction of a joined pair has under way.
const maxWaiting = 128 << 10

// joined is a running Join.
type joined struct {
	session *relay.Session
	done    func(relay.Result)
	there   end // what comes from a goes to b
	back    end
	over    bool
}

// end is the user of one of the two pipes.
type end struct {
	joined *joined
	pipe   *Pipe // from which the bytes come
	other  *end
	count  func(n int)
	ended  bool // its end is passed on
	full   bool // the other side has enough for now
}

// Join moves bytes between two pipes, also those that their users haven't taken, until both directions have ended. What one side does is done
// to the other: end to end, reset to reset. It calls done exactly once, after Join has returned.
func Join(a, b *Pipe, done func(relay.Result)) *relay.Session {
	j := &joined{done: done}
	j.session = relay.NewSession(func(reason error) {
		_ = a.loop.Post(func() { j.end(reason) }) // fails only when the loop and all on it has ended
	})
	j.there = end{joined: j, pipe: a, other: &j.back, count: j.session.AddSent}
	j.back = end{joined: j, pipe: b, other: &j.there, count: j.session.AddReceived}
	a.Start(&j.there)
	b.Start(&j.back)
	return j.session
}

// Receive implements User.
func (e *end) Receive(p []byte, ended bool) int {
	to, n := e.other.pipe, 0
	for n < len(p) {
		room := maxWaiting - to.Waiting() // a socket may have taken what was written already: then nothing waits, and Sent isn't called for it
		if room <= 0 {
			break
		}
		piece := p[n:min(len(p), n+room)]
		to.Write(piece)
		n += len(piece)
	}
	e.full = n < len(p)
	e.count(n)
	if ended && !e.full {
		e.ended = true
		to.End()
		e.joined.endIfOver()
	}
	return n
}

// Sent implements User.
func (e *end) Sent() {
	if e.other.full && e.pipe.Waiting() <= maxWaiting/2 {
		e.other.pipe.Resume()
	}
	e.joined.endIfOver()
}

// Broken implements User.
func (e *end) Broken(err error) { e.joined.end(err) }

// endIfOver ends a pair whose both directions have.
func (j *joined) endIfOver() {
	if j.there.ended && j.back.ended && j.there.pipe.Waiting()+j.back.pipe.Waiting() == 0 {
		j.end(nil)
	}
}

// end tells how it went; after an error both sides see a reset.
func (j *joined) end(err error) {
	if j.over {
		return
	}
	j.over = true
	if err != nil {
		j.there.pipe.Reset()
		j.back.pipe.Reset()
	}
	sent, received := j.session.Counts()
	j.done(relay.Result{Sent: sent, Received: received, Err: err})
}
