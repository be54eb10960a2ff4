package hbone

import (
	"context"
	"errors"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Incoming is a CONNECT that waits for its answer.
type Incoming struct {
	Request       Request
	Peer          identity.Workload // proven by the client's certificate
	Local, Remote netip.AddrPort    // of the tunnel's TCP connection

	stream   *Stream
	ctx      context.Context
	answered bool
}

// Context ends when the stream or its tunnel dies.
func (in *Incoming) Context() context.Context { return in.ctx }

// Accept answers 200 with our workload's baggage. It fails when the stream died meanwhile.
func (in *Incoming) Accept(b Baggage) (*Stream, error) {
	if in.answered {
		return nil, errors.New("request was answered already")
	}
	in.answered = true
	return in.stream, in.stream.respond(200, b)
}

// Refuse answers with the status and ends the stream. After an answer it does nothing.
func (in *Incoming) Refuse(status int) {
	if !in.answered {
		in.answered = true
		_ = in.stream.respond(status, Baggage{}) // fails only when the peer has gone
	}
}

func (s *Server) handle(stream *Stream, req Request, local, remote netip.AddrPort) {
	in := &Incoming{Request: req, Peer: stream.t.peer, Local: local, Remote: remote, stream: stream}
	in.ctx = stream.context()
	s.cfg.Handle(in)
	in.Refuse(503) // fails closed when Handle forgot to answer
}

// respond answers a request; any status but 200 ends the stream.
func (s *Stream) respond(status int, b Baggage) error {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	err := s.err
	if err == nil {
		err = t.core.Headers(s.id, responseFields(status, b), status != 200)
	}
	if err != nil {
		t.core.Reset(s.id, h2.InternalError)
		s.fail(err)
	}
	s.answered = true
	t.flushNow()
	if err != nil || status != 200 {
		t.core.Consumed(s.id, s.in.size())
		s.in.clear()
		s.cancel()
		t.forget(s)
	}
	return err
}

// context makes the context of an Incoming.
func (s *Stream) context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.err != nil {
		cancel()
	}
	s.cancel = cancel
	return ctx
}
