// Package relay moves bytes both ways between two TCP connections on an event loop, and keeps half closes and resets what they
// were.
package relay

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// Result is how a relayed connection ended.
type Result struct {
	Sent     uint64 // payload bytes that went from a to b
	Received uint64 // payload bytes that went from b to a
	Err      error  // nil when both sides ended with FIN
}

// Session is one running relay. Its methods may be called from any goroutine.
type Session struct {
	sent     atomic.Uint64
	received atomic.Uint64
	cut      func(reason error)
}

// NewSession makes the handle of a relay that somebody else drives, such as a tunnel's stream; cut must end it.
func NewSession(cut func(reason error)) *Session { return &Session{cut: cut} }

// Cut ends the relay soon, with a reset to both sides; reason becomes Result.Err. On an ended relay it does nothing.
func (s *Session) Cut(reason error) { s.cut(reason) }

// Counts returns the bytes that went each way so far.
func (s *Session) Counts() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// AddSent counts n more bytes from a to b. It is for the relay's driver, on its one thread.
func (s *Session) AddSent(n int) { s.sent.Store(s.sent.Load() + uint64(n)) }

// AddReceived counts n more bytes from b to a. It is for the relay's driver, on its one thread.
func (s *Session) AddReceived(n int) { s.received.Store(s.received.Load() + uint64(n)) }

// pair is a running Join.
type pair struct {
	loop    *loop.Loop
	session *Session
	done    func(Result)
	there   direction // a to b
	back    direction // b to a
	ended   bool
}

// Join takes over two connected, non-blocking sockets, relays between them on the loop and returns at once. It calls done exactly
// once, on the loop, after Join has returned, when both directions have ended and both sockets are closed. What one side did is
// done to the other: FIN to FIN, reset to reset.
func Join(l *loop.Loop, a, b int, done func(Result)) *Session {
	return begin(l, a, b, done).session
}

func begin(l *loop.Loop, a, b int, done func(Result)) *pair {
	p := &pair{loop: l, done: done}
	p.session = NewSession(func(reason error) {
		_ = l.Post(func() { p.end(reason) }) // fails only when the loop and all on it has ended
	})
	p.there.begin(p, a, b, p.session.AddSent)
	p.back.begin(p, b, a, p.session.AddReceived)
	err := l.Watch(a, side{in: &p.there, out: &p.back})
	if err == nil {
		err = l.Watch(b, side{in: &p.back, out: &p.there})
	}
	if err != nil {
		_ = l.Post(func() { p.end(err) }) // fails only when the loop and all on it has ended
	}
	return p
}

// side is one of the two sockets: what comes from it, and what goes to it.
type side struct{ in, out *direction }

// Ready implements loop.Handler.
func (s side) Ready(events loop.Events) {
	p := s.in.pair
	if events.Has(loop.Broken) && s.in.over && !s.out.over { // after its end there is nothing to read that would tell
		p.end(failed("read", syscall.ECONNRESET))
		return
	}
	if events.Has(loop.Readable | loop.PeerEnd | loop.Broken) {
		s.in.readable = true
		s.in.failed = s.in.failed || events.Has(loop.Failed)
		p.loop.Input(&s.in.task)
	}
	if events.Has(loop.Writable|loop.Broken) && s.out.blocked {
		s.out.blocked = false
		p.loop.Input(&s.out.task)
	}
}

// endIfOver ends a pair whose both directions have.
func (p *pair) endIfOver() {
	if p.there.over && p.back.over {
		p.end(nil)
	}
}

// end closes both sockets; after an error both applications see a reset.
func (p *pair) end(err error) {
	if p.ended {
		return
	}
	p.ended = true
	for _, d := range []*direction{&p.there, &p.back} {
		d.over = true
		d.dropPipe()
		if err != nil {
			p.loop.Reset(d.from)
		} else {
			p.loop.Release(d.from)
		}
	}
	sent, received := p.session.Counts()
	p.done(Result{Sent: sent, Received: received, Err: err})
}

func failed(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
