package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
)

// Stream is one tunnelled connection. Exactly one of Join, Conn and Reset must be called in the end.
type Stream struct {
	t       *tunnel
	id      uint32
	changed sync.Cond     // on t.mu: any of the fields below changed
	answer  chan struct{} // client: closed when the answer, or an error instead of it, is there
	cancel  context.CancelFunc

	// Guarded by t.mu.
	answered  bool
	status    int
	in        backlog
	remoteEnd bool   // the peer sends no more; what it sent may be in the backlog
	out       []byte // what the writer lends until it is sent
	localEnd  bool   // we send no more
	err       error  // the stream is dead
	sendErr   error  // the peer ended its direction properly, then refused ours
	joined    *joined
}

// Reset aborts the stream; the peer's application sees a reset.
func (s *Stream) Reset() { s.abort(errors.New("stream reset"), h2.ConnectError) }

// newStream registers a stream. It is called with mu held.
func (t *tunnel) newStream(id uint32) *Stream {
	s := &Stream{t: t, id: id, answer: make(chan struct{})}
	s.changed.L = &t.mu
	t.streams[id] = s
	t.idleSince = time.Time{}
	return s
}

// open sends a CONNECT. It fails with h2.ErrMaxStreams when the tunnel is full and with h2.ErrGoAway when it takes no more.
func (t *tunnel) open(fields []hpack.HeaderField) (*Stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil || t.draining:
		return nil, h2.ErrGoAway
	case len(t.streams) >= t.max:
		return nil, h2.ErrMaxStreams
	}
	id, err := t.core.Open(fields, false)
	if err != nil {
		return nil, err
	}
	s := t.newStream(id)
	t.kick()
	return s, nil
}

// await waits for the answer to a CONNECT.
func (s *Stream) await(ctx context.Context) error {
	select {
	case <-s.answer:
	case <-ctx.Done():
		s.abort(ctx.Err(), h2.Cancel)
		return ctx.Err()
	}
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.err != nil && !s.answered {
		return s.err
	}
	if s.status != 200 {
		if s.remoteEnd {
			s.t.core.Finish(s.id)
		}
		s.t.core.Reset(s.id, h2.Cancel) // nobody reads what came with the refusal
		s.in.clear()
		s.t.forget(s)
		s.t.kick()
		return &StatusError{Status: s.status}
	}
	return nil
}

// response takes the answer to a CONNECT.
func (s *Stream) response(ev h2.Event) {
	status, _ := strconv.Atoi(ev.Fields[0].Value)
	if status < 200 {
		return // an interim answer
	}
	s.status, s.answered, s.remoteEnd = status, true, ev.EndStream
	close(s.answer)
}

// deliver takes data from the peer.
func (s *Stream) deliver(p []byte, end bool) {
	if len(p) > 0 && s.joined != nil {
		p = s.joined.deliver(p)
	}
	if s.err != nil {
		return
	}
	s.in.push(p)
	s.remoteEnd = s.remoteEnd || end
	if s.joined != nil {
		s.joined.pour()
	}
	s.changed.Broadcast()
}

// peerReset takes an RST_STREAM.
func (s *Stream) peerReset(ev h2.Event) {
	if ev.EndStream && s.answered && (ev.Code == h2.NoError || ev.Code == h2.Cancel) {
		s.sendErr = errReset(ev.Code)
		s.wake()
		return
	}
	s.t.core.Reset(s.id, h2.Cancel) // nobody reads what came before
	switch {
	case ev.Local:
		s.fail(fmt.Errorf("peer broke a rule on the stream: %s", ev.Code))
	case ev.Code == h2.RefusedStream && !s.answered:
		s.fail(errUnprocessed)
	default:
		s.fail(errReset(ev.Code))
	}
}

// fail makes err the stream's end, unless it has one. It is called with mu held.
func (s *Stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.in.clear()
	s.wake()
	if s.t.accept == nil && !s.answered {
		close(s.answer)
		s.t.forget(s)
	}
}

// orphan is what the tunnel's end does to a stream: what the peer sent before it ended may still be read.
func (s *Stream) orphan(err error) {
	if !s.remoteEnd || !s.answered {
		s.fail(err)
		return
	}
	if !s.localEnd && s.sendErr == nil {
		s.sendErr = err
		s.wake()
	}
}

// wake stops whoever waits for the stream or for its application.
func (s *Stream) wake() {
	s.changed.Broadcast()
	if s.cancel != nil && s.err != nil {
		s.cancel()
	}
	if s.joined != nil {
		s.joined.interrupt()
	}
}

// abort resets the stream towards the peer, with err for our side.
func (s *Stream) abort(err error, code h2.Code) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.err == nil {
		s.t.core.Reset(s.id, code)
		s.fail(err)
		s.t.kick()
	}
	if s.joined == nil {
		s.t.forget(s)
	}
}

// write sends p and returns how much of it is on its way: all, or an error says why not. stop, which may be nil, ends the wait
// when it gives an error; it is called with the tunnel's mu held.
func (s *Stream) write(p []byte, stop func() error) (n int, err error) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	check := func() error {
		if err := s.sendable(); err != nil || stop == nil {
			return err
		}
		return stop()
	}
	if err := check(); err != nil {
		return 0, err
	}
	s.out = p
	t.core.Ready(s.id)
	t.flushNow()
	for len(s.out) > 0 && err == nil {
		if err = check(); err == nil {
			s.changed.Wait()
		}
	}
	n = len(p) - len(s.out)
	s.out = nil
	return n, err
}

func (s *Stream) sendable() error {
	switch {
	case s.err != nil:
		return s.err
	case s.sendErr != nil:
		return s.sendErr
	case s.localEnd:
		return syscall.EPIPE
	}
	return nil
}

// finish ends our direction.
func (s *Stream) finish() error {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if err := s.sendable(); err != nil {
		return err
	}
	s.localEnd = true
	s.t.core.Finish(s.id)
	s.t.kick()
	return nil
}

// end returns how the peer's direction ended, once all of it is read.
func (s *Stream) end() error {
	switch {
	case s.err != nil:
		return s.err
	case s.remoteEnd && s.in.empty():
		return io.EOF
	}
	return nil
}
