// Package relay moves bytes both ways between two TCP connections, and keeps half closes and resets what they were.
package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
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

// Cut ends the relay at once with a reset to both sides; reason becomes Result.Err. On an ended relay it does nothing.
func (s *Session) Cut(reason error) { s.cut(reason) }

// Counts returns the bytes that went each way so far.
func (s *Session) Counts() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// AddSent counts n more bytes from a to b. It is for the relay's driver.
func (s *Session) AddSent(n int) { s.sent.Add(uint64(n)) }

// AddReceived counts n more bytes from b to a. It is for the relay's driver.
func (s *Session) AddReceived(n int) { s.received.Add(uint64(n)) }

// past is a deadline that is over, to wake whoever waits for a socket.
var past = time.Unix(1, 0)

// pair is a running Join.
type pair struct {
	a, b    *net.TCPConn
	session *Session

	mu    sync.Mutex
	err   error // the first thing that went wrong
	ended bool  // too late for Cut
}

// Join takes both connections over, relays between them and returns at once. It calls done exactly once, from a goroutine
// of its own, when both directions have ended and both connections are closed. What one side did is done to the other: FIN
// to FIN, reset to reset.
func Join(a, b *net.TCPConn, done func(Result)) *Session {
	p := &pair{a: a, b: b}
	_ = a.SetDeadline(time.Time{}) // whatever came before is over
	_ = b.SetDeadline(time.Time{})
	p.session = NewSession(p.fail)
	go p.run(done)
	return p.session
}

// run moves a to b, has another goroutine move b to a, and closes both.
func (p *pair) run(done func(Result)) {
	err := p.relay()
	if err != nil {
		reset(p.a)
		reset(p.b)
	} else {
		_ = p.a.Close()
		_ = p.b.Close()
	}
	sent, received := p.session.Counts()
	done(Result{Sent: sent, Received: received, Err: err})
}

func (p *pair) relay() error {
	a, err := NewSocket(p.a)
	if err != nil {
		return err
	}
	b, err := NewSocket(p.b)
	if err != nil {
		return err
	}
	var back sync.WaitGroup
	back.Go(func() { p.move(b, a, p.session.AddReceived) })
	p.move(a, b, p.session.AddSent)
	back.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	return p.err
}

// move relays one direction until its end.
func (p *pair) move(from, to *Socket, count func(int)) {
	s := newSplicer(from, to)
	defer s.close()
	for {
		n, err := s.next()
		count(n)
		switch {
		case err == io.EOF:
			// That to has gone shows when it is read.
			_ = to.CloseWrite()
			return
		case err != nil:
			p.fail(err)
			return
		}
	}
}

// fail makes err the end, unless there is one already, and wakes both directions.
func (p *pair) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && !p.ended {
		p.err = err
		_ = p.a.SetDeadline(past)
		_ = p.b.SetDeadline(past)
	}
}
