package hbone

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// How a stream ends: by both ends, by one who breaks it, or with its tunnel.

// appFailed resets the stream because of the application.
func (s *Stream) appFailed(err error) { s.abort(err, h2.ConnectError) }

// Reset aborts the stream; the peer's application sees a reset. A User isn't called any more.
func (s *Stream) Reset() {
	s.user = nil
	s.abort(errors.New("stream reset"), h2.ConnectError)
	s.t.forget(s)
}

// abort resets the stream towards the peer, with err for our side.
func (s *Stream) abort(err error, code h2.Code) {
	if s.err == nil {
		s.t.core.Reset(s.id, code)
		s.t.flush()
		s.fail(err)
	}
}

// peerReset takes an RST_STREAM.
func (s *Stream) peerReset(ev h2.Event) {
	if ev.EndStream && s.answered && s.user == nil && (ev.Code == h2.NoError || ev.Code == h2.Cancel) {
		s.sendErr = errReset(ev.Code)
		s.endIfOver()
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

// fail makes err the stream's end, unless it has one.
func (s *Stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.backlog.Clear()
	s.out.Clear()
	if waiting := s.waiting; waiting != nil {
		s.waiting = nil
		s.t.forget(s)
		waiting.finish(nil, err)
	} else if s.incoming != nil {
		s.t.forget(s)
		s.incoming.lost()
	} else if s.user != nil {
		s.leave(err)
	} else if s.app != noSocket {
		s.end()
	}
}

// orphan is what the tunnel's end does to a stream: what the peer sent before it ended may still be read.
func (s *Stream) orphan(err error) {
	if !s.remoteEnd || !s.answered || s.user != nil {
		s.fail(err)
		return
	}
	if !s.localEnd && s.sendErr == nil {
		s.sendErr = err
		s.endIfOver()
	}
}

// endIfOver ends a stream whose both directions have.
func (s *Stream) endIfOver() {
	if s.user != nil && s.shut && s.localEnd {
		s.leave(nil)
	} else if s.shut && (s.localEnd || s.sendErr != nil) {
		s.end()
	}
}

// end closes the application's socket and tells how it went. The application of an aborted stream sees a reset.
func (s *Stream) end() {
	if s.app == noSocket {
		return
	}
	err := s.err
	if err != nil {
		s.t.loop.Reset(s.app)
	} else {
		err = s.sendErr // the peer reads no more: what the application still sends is answered with a reset by its kernel
		s.t.loop.Release(s.app)
	}
	s.app = noSocket
	s.readable = false
	s.t.core.Unready(s.id)
	s.t.forget(s)
	sent, received := s.session.Counts()
	s.done(relay.Result{Sent: sent, Received: received, Err: err})
}

// errReset is what the application on the other side did, or what was done to it.
func errReset(code h2.Code) error {
	return fmt.Errorf("peer reset the stream with %s: %w", code, syscall.ECONNRESET)
}
