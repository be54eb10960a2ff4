package hbone

import (
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

const noSocket = -1

// Stream is one tunnelled connection. Join or Use must be called in the end, or Reset. All methods are for the tunnel's loop.
type Stream struct {
	t  *tunnel
	id uint32

	// The CONNECT.
	waiting   *Attempt  // client: who waits for the answer
	incoming  *Incoming // server: until it is answered
	answered  bool
	Baggage   Baggage // client: how the peer describes its workload, with the answer
	remoteEnd bool    // the peer sends no more; what it sent may wait
	localEnd  bool    // we send no more
	err       error   // the stream is dead
	sendErr   error   // the peer ended its direction properly, then refused ours

	// The application, from Join on.
	app      int // its socket
	readable bool
	large    bool // the last read brought much, so the next one asks for as much as may be
	ending   bool // a read that falls short isn't the last: the application has ended, or sent urgent data
	failed   bool // it has broken the connection; what it sent before may wait
	tight    bool // it has had to be waited for once, so its socket tells when it takes more
	shut     bool // the application got its FIN
	session  *relay.Session
	done     func(relay.Result)

	// Code in this process instead of an application, from Use on; user.go.
	user      User
	out       loop.Backlog // what it has to send
	finishing bool         // our direction ends when that is gone

	// What came for the application.
	touched bool         // pieces are to be written at the end of receive
	pieces  []unix.Iovec // of this turn, in the loop's buffer
	backlog loop.Backlog // copies of what its socket didn't take
}

// Peer is who the other end of the tunnel has proven to be.
func (s *Stream) Peer() identity.Workload { return s.t.peer }

// newStream registers a stream.
func (t *tunnel) newStream(id uint32) *Stream {
	s := &Stream{t: t, id: id, app: noSocket}
	t.streams[id] = s
	t.idleSince = time.Time{}
	return s
}

// open sends a CONNECT. It fails with h2.ErrMaxStreams when the tunnel is full, with h2.ErrGoAway when it takes no more, and with
// h2.ErrHeaderLimit.
func (t *tunnel) open(fields []hpack.HeaderField) (*Stream, error) {
	switch {
	case t.err != nil || t.writeErr != nil || t.draining || t.expired(t.loop.Now()):
		return nil, h2.ErrGoAway
	case len(t.streams) >= t.max:
		return nil, h2.ErrMaxStreams
	}
	id, err := t.core.Open(fields, false)
	if err != nil {
		return nil, err
	}
	t.flush()
	return t.newStream(id), nil
}

// response takes the answer to a CONNECT.
func (s *Stream) response(ev h2.Event) {
	status, _ := strconv.Atoi(ev.Fields[0].Value)
	if status < 200 {
		return // an interim answer
	}
	s.answered, s.remoteEnd = true, ev.EndStream
	waiting := s.waiting
	s.waiting = nil
	if status == 200 {
		for _, f := range ev.Fields {
			if f.Name == "baggage" {
				s.Baggage = parseBaggage(f.Value)
			}
		}
		waiting.finish(s, nil)
		return
	}
	if s.remoteEnd {
		s.t.core.Finish(s.id)
	}
	s.t.core.Reset(s.id, h2.Cancel) // nobody reads what came with the refusal
	s.t.forget(s)
	waiting.finish(nil, &StatusError{Status: status})
}

// deliver takes data from the peer; it is written at the end of receive.
func (s *Stream) deliver(p []byte, end bool) {
	if s.err != nil {
		return
	}
	s.remoteEnd = s.remoteEnd || end
	if s.user != nil {
		s.give(p)
		return
	}
	switch {
	case len(p) == 0:
	case s.app == noSocket || s.backlog.Len() > 0:
		s.backlog.Push(p)
	default:
		s.pieces = append(s.pieces, vector(p))
	}
	if !s.touched {
		s.touched = true
		s.t.touched = append(s.t.touched, s)
	}
}

// writePieces writes what came in this turn, and keeps a copy of what the application's socket doesn't take.
func (s *Stream) writePieces() {
	s.touched = false
	left := s.pieces
	for len(left) > 0 && s.err == nil {
		n, err := loop.WriteVector(s.app, left[:min(len(left), loop.MaxVectors)])
		if err == unix.EAGAIN {
			s.awaitRoom()
			break
		}
		if err != nil {
			s.appFailed(fmt.Errorf("write to the application: %w", err))
			break
		}
		s.consumed(n)
		left = skip(left, n)
	}
	if s.err == nil {
		for _, v := range left {
			s.backlog.Push(bytesOf(v))
		}
	}
	s.keepPlaces()
	if s.remoteEnd {
		s.t.ends = append(s.t.ends, s)
	}
}

// keepPieces is how many places for pieces a stream keeps for its next turn in any case.
const keepPieces = 8

// keepPlaces empties the pieces. Many places are kept while they are used.
func (s *Stream) keepPlaces() {
	used := len(s.pieces)
	clear(s.pieces)
	s.pieces = s.pieces[:0]
	if used <= keepPieces && cap(s.pieces) > keepPieces {
		s.pieces = nil
	}
}

// pour writes the backlog.
func (s *Stream) pour() {
	for s.err == nil && s.backlog.Len() > 0 {
		var vectors [16]unix.Iovec
		n, err := loop.WriteVector(s.app, s.backlog.Vectors(vectors[:0]))
		if err == unix.EAGAIN {
			s.awaitRoom()
			break
		}
		if err != nil {
			s.appFailed(fmt.Errorf("write to the application: %w", err))
			return
		}
		s.backlog.Skip(n)
		s.consumed(n)
	}
	s.endReceived()
}

// awaitRoom has the application's socket tell when it takes more.
func (s *Stream) awaitRoom() {
	if s.tight {
		return
	}
	s.tight = true
	if err := s.t.loop.WatchOutput(s.app); err != nil {
		s.abort(err, h2.InternalError)
	}
}

// consumed counts what the application got, and lets the peer send as much more.
func (s *Stream) consumed(n int) {
	s.session.AddReceived(n)
	s.t.core.Consumed(s.id, n)
	s.t.flush()
}

// endReceived passes the peer's end on when all before it is written.
func (s *Stream) endReceived() {
	if s.remoteEnd && !s.shut && s.app != noSocket && s.backlog.Len() == 0 && s.err == nil {
		s.shut = true
		if !s.localEnd { // else it is closed next
			_ = unix.Shutdown(s.app, unix.SHUT_WR) // that the application has gone shows when it is read
		}
		s.endIfOver()
	}
}

// Join relays between the application's connected, non-blocking socket and the stream, and takes both over. Sent counts bytes
// from the application to the stream, Received those from the stream to it. It calls done exactly once, on the loop, after Join
// has returned.
func (s *Stream) Join(app int, done func(relay.Result)) *relay.Session {
	s.app, s.done = app, done
	s.session = relay.NewSession(func(reason error) {
		_ = s.t.loop.Post(func() { s.abort(reason, h2.ConnectError) }) // fails only when the loop and all on it has ended
	})
	err := s.err
	if err == nil {
		err = s.t.loop.WatchInput(app, s)
	}
	if err != nil || s.remoteEnd || s.backlog.Len() > 0 {
		_ = s.t.loop.Post(func() { s.begin(err) }) // fails only when the loop and all on it has ended
	}
	if s.t.role == h2.Client {
		s.heed() // most applications have spoken by now, which the socket would tell in the next turn
	}
	return s.session
}

// begin is the part of Join that may end it.
func (s *Stream) begin(err error) {
	if err != nil && s.err == nil {
		s.abort(err, h2.InternalError)
	} else if err != nil {
		s.end()
	}
	s.pour()
}

// Ready implements loop.Handler for the application's socket.
func (s *Stream) Ready(events loop.Events) {
	if events.Has(loop.Broken) && s.localEnd && !s.shut { // after its end there is nothing to read that would tell
		s.appFailed(fmt.Errorf("read from the application: %w", syscall.ECONNRESET))
		return
	}
	if events.Has(loop.Readable | loop.PeerEnd | loop.Broken) {
		s.ending = s.ending || events.Has(loop.PeerEnd|loop.Broken|loop.Urgent)
		s.failed = s.failed || events.Has(loop.Failed)
		s.heed()
		s.heedFailure()
	}
	if events.Has(loop.Writable|loop.Broken) && s.backlog.Len() > 0 {
		s.pour()
	}
}

// heed has the application's socket read when there is room for what it sends.
func (s *Stream) heed() {
	s.readable = true
	if s.sendable() {
		s.t.core.Ready(s.id)
		s.t.flush()
	}
}

// heedFailure ends a stream whose application has broken its connection while the peer takes no more: the rest of what it sent
// may have to wait for ever.
func (s *Stream) heedFailure() {
	if !s.failed || !s.sendable() || !s.t.core.Stalled(s.id) {
		return
	}
	s.failed = false
	if err := loop.Failure(s.app); err != nil {
		s.appFailed(fmt.Errorf("read from the application: %w", err))
	}
}

func (s *Stream) sendable() bool {
	return s.err == nil && s.sendErr == nil && !s.localEnd && s.app != noSocket
}

// firstRead is how many bytes an application is asked for that sent less than that before: one piece, in a record of its own. The kernel looks
// at each of many pieces before it knows that it has bytes for the first only.
const firstRead = record.MaxPlaintext - h2.FrameHeaderLen

// readInto moves what the application has sent into a batch, at most budget bytes. It tells whether there was something.
func (s *Stream) readInto(b *batch, budget int) bool {
	if s.user != nil {
		return s.takeInto(b, budget)
	}
	if !s.readable || !s.sendable() {
		return false
	}
	if !s.large {
		budget = min(budget, firstRead)
	}
	n, all, err := b.receive(s.app, s.t.core, s.id, budget)
	switch {
	case err == unix.EAGAIN:
		s.readable = false
		return false
	case err != nil:
		s.appFailed(fmt.Errorf("read from the application: %w", err))
		return false
	case n == 0:
		s.localEnd = true
		s.t.core.Finish(s.id)
		s.endIfOver()
		return false
	}
	s.session.AddSent(n)
	s.large = n >= firstRead
	if s.readable = all || s.ending; s.readable {
		s.t.core.Ready(s.id)
	}
	s.heedFailure()
	return true
}

// skip takes the first n bytes off the pieces.
func skip(v []unix.Iovec, n int) []unix.Iovec {
	for len(v) > 0 && n >= int(v[0].Len) {
		n -= int(v[0].Len)
		v = v[1:]
	}
	if n > 0 {
		v[0] = vector(bytesOf(v[0])[n:])
	}
	return v
}
