package pipe

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

const (
	readSize    = 64 << 10  // bytes of one read
	maxUnread   = 128 << 10 // bytes given to the user and not taken, at which no more is read
	writeAtOnce = 8 << 10   // bytes from which on a piece isn't copied if the socket takes it at once
)

// socket carries a pipe over TCP. Of what comes it leaves all but maxUnread in the kernel, so that the sender has to wait.
type socket struct {
	pipe     *Pipe
	loop     *loop.Loop
	fd       int
	released func() // hears that the descriptor is closed; it may be nil
	closed   bool

	in       loop.Task
	readable bool
	ending   bool // a read that falls short isn't the last: the peer has ended, or sent urgent data
	ended    bool // the peer sends no more
	unread   int

	out       loop.Task
	queue     loop.Backlog
	sent      int // bytes of it that the user hasn't heard of
	blocked   bool
	finishing bool  // our direction ends when the queue is empty
	finished  bool  // it has
	writeErr  error // nothing can be sent; what the peer said before is still read
}

// OverSocket makes a pipe of a connected, non-blocking socket, which it takes over. released is called when the descriptor is closed; it may
// be nil.
func OverSocket(l *loop.Loop, fd int, released func()) *Pipe {
	p := newPipe(l)
	s := &socket{pipe: p, loop: l, fd: fd, released: released}
	s.in.Run, s.out.Run = s.read, s.flush
	p.carrier = s
	if err := l.Watch(fd, s); err != nil {
		_ = l.Post(func() { s.broken(err) }) // fails only when the loop and all on it has ended
	}
	return p
}

// Ready implements loop.Handler.
func (s *socket) Ready(events loop.Events) {
	if events.Has(loop.Broken) && s.ended { // after its end there is nothing to read that would tell
		s.broken(fmt.Errorf("read: %w", syscall.ECONNRESET))
		return
	}
	if events.Has(loop.Readable | loop.PeerEnd | loop.Broken) {
		s.readable = true
		s.ending = s.ending || events.Has(loop.PeerEnd|loop.Broken|loop.Urgent)
		s.wantRead()
	}
	if events.Has(loop.Writable|loop.Broken) && s.blocked {
		s.blocked = false
		s.loop.Output(&s.out)
	}
}

func (s *socket) wantRead() {
	if s.readable && !s.ended && !s.closed && s.unread < maxUnread {
		s.loop.Input(&s.in)
	}
}

// read reads once; if there may be more, that waits for the next turn.
func (s *socket) read() {
	if s.closed || s.ended || s.unread >= maxUnread {
		return
	}
	buffer := s.loop.Buffer()
	defer s.loop.Return(buffer)
	n, err := loop.Read(s.fd, buffer[:readSize])
	switch {
	case err == unix.EAGAIN:
		s.readable = false
	case err != nil && s.writeErr == nil:
		s.broken(fmt.Errorf("read: %w", err))
	case err != nil || (n == 0 && s.writeErr != nil):
		s.broken(s.writeErr)
	case n == 0:
		s.ended = true
		s.pipe.Ended()
		s.closeIfOver()
	default:
		s.readable = n == readSize || s.ending
		s.unread += n
		s.pipe.Received(buffer[:n])
		s.wantRead()
	}
}

// Consumed implements carrier.
func (s *socket) Consumed(n int) {
	s.unread -= n
	s.wantRead()
}

// Write implements carrier. A large piece goes to the kernel at once, with what waits before it.
func (s *socket) Write(p []byte) {
	if s.closed || s.finishing || s.writeErr != nil {
		return
	}
	if len(p) >= writeAtOnce && !s.blocked && s.queue.Len() <= 4*writeAtOnce {
		p = s.writeNow(p)
	}
	if len(p) > 0 && s.writeErr == nil {
		s.queue.Push(p)
		if !s.blocked {
			s.loop.Output(&s.out)
		}
	}
}

// writeNow writes the queue and p, and returns what is left of p.
func (s *socket) writeNow(p []byte) []byte {
	var vectors [8]unix.Iovec
	piece := unix.Iovec{Base: unsafe.SliceData(p)}
	piece.SetLen(len(p))
	queued := s.queue.Len()
	n, err := loop.WriteVector(s.fd, append(s.queue.Vectors(vectors[:0]), piece))
	if err != nil {
		s.unwritable(err)
		return p
	}
	if queued > 0 {
		s.queue.Skip(min(n, queued))
		s.sent += min(n, queued)
		s.loop.Output(&s.out)
	}
	return p[max(0, n-queued):]
}

// Waiting implements carrier.
func (s *socket) Waiting() int { return s.queue.Len() }

// End implements carrier.
func (s *socket) End() {
	if !s.finishing && !s.closed {
		s.finishing = true
		s.loop.Output(&s.out)
	}
}

// flush writes what waits.
func (s *socket) flush() {
	for s.queue.Len() > 0 && !s.blocked && !s.closed && s.writeErr == nil {
		var vectors [16]unix.Iovec
		n, err := loop.WriteVector(s.fd, s.queue.Vectors(vectors[:0]))
		if err != nil {
			s.unwritable(err)
			break
		}
		s.queue.Skip(n)
		s.sent += n
	}
	if s.queue.Len() == 0 && s.finishing && !s.finished && !s.closed && s.writeErr == nil {
		s.finished = true
		_ = unix.Shutdown(s.fd, unix.SHUT_WR) // that the peer has gone shows when it is read
	}
	if n := s.sent; n > 0 {
		s.sent = 0
		s.pipe.Sent(n)
	}
	s.closeIfOver()
}

// unwritable notes that the socket takes no more, for now or for ever. What the peer sent before it broke the connection may tell why, so
// that is read first.
func (s *socket) unwritable(err error) {
	if errors.Is(err, unix.EAGAIN) {
		s.blocked = true
		return
	}
	s.writeErr = fmt.Errorf("write: %w", err)
	s.queue.Clear()
	s.readable, s.ending = true, true
	if s.ended {
		_ = s.loop.Post(func() { s.broken(s.writeErr) }) // fails only when the loop and all on it has ended
	}
	s.wantRead()
}

// Reset implements carrier.
func (s *socket) Reset() {
	if !s.closed {
		s.close(s.loop.Reset)
	}
}

// broken ends both directions.
func (s *socket) broken(err error) {
	if !s.closed {
		s.close(s.loop.Reset)
		s.pipe.Broken(err)
	}
}

// closeIfOver closes the socket when both directions have ended.
func (s *socket) closeIfOver() {
	if s.ended && s.finished && !s.closed {
		s.close(s.loop.Release)
	}
}

func (s *socket) close(how func(fd int)) {
	s.closed = true
	s.queue.Clear()
	how(s.fd)
	if s.released != nil {
		s.released()
	}
}
