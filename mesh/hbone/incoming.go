package hbone

import (
	"errors"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
)

// answerTimeout bounds how long a CONNECT may wait for its answer, in case whoever decides forgets it.
const answerTimeout = 30 * time.Second

var errAnswered = errors.New("request was answered already")

// Incoming is a CONNECT that waits for its answer. Its methods are for the loop of its server.
type Incoming struct {
	Request       Request
	Peer          identity.Workload // proven by the client's certificate
	Local, Remote netip.AddrPort    // of the tunnel's TCP connection

	stream   *Stream
	gone     func()
	timer    loop.Timer
	answered bool
}

// Loop is where the stream lives: an application's socket that it is to be joined with is watched there.
func (in *Incoming) Loop() *loop.Loop { return in.stream.t.loop }

// OnGone says what to do when nobody waits for the answer any more: the peer gave up or broke a rule, or its tunnel ended.
// f is called at once if that has happened already, and not after Accept or Refuse.
func (in *Incoming) OnGone(f func()) {
	if in.gone = f; in.answered && in.stream.incoming == in {
		f()
	}
}

// lost is the stream's end before the answer.
func (in *Incoming) lost() {
	in.answered = true
	in.stream.t.loop.Stop(&in.timer)
	if in.gone != nil {
		in.gone()
	}
}

// Accept answers 200 with our workload's baggage. It fails when the stream died meanwhile.
func (in *Incoming) Accept(b Baggage) (*Stream, error) {
	if in.answered {
		return nil, errAnswered
	}
	in.answer()
	s := in.stream
	if err := s.respond(200, b); err != nil {
		return nil, err
	}
	return s, nil
}

// Refuse answers with the status and ends the stream. After an answer it does nothing.
func (in *Incoming) Refuse(status int) {
	if in.answered {
		return
	}
	in.answer()
	s := in.stream
	if s.respond(status, Baggage{}) == nil {
		s.t.core.Reset(s.id, h2.NoError) // should the client still send; on an ended stream this does nothing
	}
	s.backlog.Clear()
	s.t.forget(s)
}

func (in *Incoming) answer() {
	in.answered = true
	in.stream.incoming = nil
	in.stream.t.loop.Stop(&in.timer)
}

// respond answers a request; any status but 200 ends the stream.
func (s *Stream) respond(status int, b Baggage) error {
	t := s.t
	err := t.core.Headers(s.id, responseFields(status, b), status != 200)
	if err != nil {
		t.core.Reset(s.id, h2.InternalError)
		s.fail(err)
		t.forget(s)
	}
	s.answered = true
	t.flush()
	return err
}
