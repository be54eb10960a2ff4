// Package pipe is a connection's bytes both ways on an event loop, whatever carries them: a tunnel's stream or a TCP socket.
package pipe

import (
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
)

// User is at one end of a pipe. It is called on the pipe's loop, never by a method of Pipe before that has returned.
type User interface {
	// Receive takes bytes that came, as many as it returns; it may change those. The rest is given again, with what comes next or when Resume
	// is called, and as it adds up the sender has to wait. end says that nothing comes after p.
	Receive(p []byte, end bool) int
	// Sent says that bytes have left: Waiting has become less.
	Sent()
	// Broken says that the pipe is over before both directions have ended. It is not said after Reset, and nothing is after it.
	Broken(err error)
}

// Pipe is a byte stream both ways. Both directions end by End and the peer's end, or at once by Reset or the peer's reset.
type Pipe struct {
	loop    *loop.Loop
	carrier carrier
	user    User
	rest    []byte // what came and the user hasn't taken
	ended   bool   // the peer sends no more
	told    bool   // the user knows, and has taken everything
	over    bool   // broken, by either side
	err     error  // why, by the peer
	within  bool   // a call of Receive
	again   bool   // Resume was called within it
	offer   loop.Task
}

// carrier is what carries the bytes. It calls Received, Ended, Sent and Broken.
type carrier interface {
	Consumed(n int)
	Write(p []byte)
	Waiting() int
	End()
	Reset()
}

var _ carrier = (*hbone.Stream)(nil)

// OverStream makes a pipe of a tunnel's stream.
func OverStream(l *loop.Loop, s *hbone.Stream) *Pipe {
	p := newPipe(l)
	p.carrier = s
	s.Use(p)
	return p
}

func newPipe(l *loop.Loop) *Pipe {
	p := &Pipe{loop: l}
	p.offer.Run = func() { p.give(nil) }
	return p
}

// Loop is where the pipe lives.
func (p *Pipe) Loop() *loop.Loop { return p.loop }

// Start makes u the pipe's user, instead of another if there is one, who isn't called any more. It gets all that the other hasn't taken.
func (p *Pipe) Start(u User) {
	p.user = u
	p.Resume()
}

// Resume has what wasn't taken given to Receive again, and the end.
func (p *Pipe) Resume() {
	p.told = false
	if p.within {
		p.again = true
	} else if len(p.rest) > 0 || p.ended || p.err != nil {
		p.loop.Input(&p.offer)
	}
}

// Write queues bytes to send, which are copied. How many wait is the user's to bound. After End, or when the pipe is over, it does nothing.
func (p *Pipe) Write(b []byte) { p.carrier.Write(b) }

// Waiting returns how many bytes were given to Write and haven't left.
func (p *Pipe) Waiting() int { return p.carrier.Waiting() }

// End ends our direction when all that waits has left.
func (p *Pipe) End() { p.carrier.End() }

// Reset breaks the pipe; the peer sees a reset. On one that is over it does nothing.
func (p *Pipe) Reset() {
	p.user = nil
	p.over = true
	p.give(nil)
	p.carrier.Reset()
}

// Received implements hbone.User.
func (p *Pipe) Received(b []byte) {
	if len(p.rest) > 0 {
		p.rest = append(p.rest, b...)
		b = nil
	}
	p.give(b)
}

// Ended implements hbone.User.
func (p *Pipe) Ended() {
	p.ended = true
	p.give(nil)
}

// Sent implements hbone.User.
func (p *Pipe) Sent(int) {
	if p.user != nil {
		p.user.Sent()
	}
}

// Broken implements hbone.User.
func (p *Pipe) Broken(err error) {
	p.over, p.err = true, err
	p.give(nil)
}

// give hands what isn't taken to the user, or b if that is nothing, and keeps what still isn't taken. Called within a call of Receive it
// leaves that to the one under way.
func (p *Pipe) give(b []byte) {
	if p.within {
		return
	}
	fresh := len(p.rest) == 0
	if !fresh {
		b = p.rest
	}
	b = p.hand(b)
	switch {
	case p.over:
		p.rest = nil
		p.consumed(len(b))
	case len(b) == 0:
		p.rest = nil
	case fresh:
		p.rest = append([]byte(nil), b...)
	default:
		p.rest = b
	}
	if p.err != nil && p.user != nil {
		u := p.user
		p.user = nil
		u.Broken(p.err)
	}
}

// hand gives bytes to the user and returns what it hasn't taken.
func (p *Pipe) hand(b []byte) []byte {
	p.within = true
	for p.again = true; p.again && p.user != nil && !p.over && !p.told && (len(b) > 0 || p.ended); {
		p.again = false
		u := p.user
		n := u.Receive(b, p.ended)
		b = b[n:]
		if p.user == u {
			p.told = p.ended && len(b) == 0
		}
		p.consumed(n)
	}
	p.within = false
	return b
}

func (p *Pipe) consumed(n int) {
	if n > 0 {
		p.carrier.Consumed(n)
	}
}
