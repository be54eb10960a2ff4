package hbone

import (
	"errors"
	"slices"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
)

const (
	maxAttempts = 4  // tunnels that a request tries when each says that it did not process it
	maxRounds   = 20 // dials that a request waits for when others are faster to take the room that they make
)

// Attempt is a Connect that isn't done yet.
type Attempt struct {
	pool   *Pool
	key    key
	target Target
	share  *share // with ConnectOver
	fields []hpack.HeaderField
	tries  int
	rounds int
	dial   *dial   // waited for
	stream *Stream // whose answer is waited for
	done   func(*Stream, error)
}

// Connect opens a stream to req.Authority through a tunnel to target, and calls done when the peer has answered 200, or with a
// *DialError, a *StatusError, or what broke the tunnel. It is called once, after Connect has returned, unless Cancel comes
// first. There is no deadline but those of dialling: the caller's timer calls Cancel.
func (p *Pool) Connect(target Target, req Request, done func(*Stream, error)) *Attempt {
	a := &Attempt{pool: p, key: target.key(), target: target, fields: req.fields(), done: done}
	if req.Authority.isZero() {
		a.failSoon(errors.New("connect without a destination"))
	} else {
		a.try()
	}
	return a
}

// ConnectOver is Connect through a tunnel of its own, over a connected, non-blocking socket that it takes over. target.Addr is
// for errors only. The tunnel ends with the stream.
func (p *Pool) ConnectOver(fd int, target Target, req Request, done func(*Stream, error)) *Attempt {
	sh := &share{target: target, room: 1, single: true}
	a := &Attempt{pool: p, target: target, share: sh, fields: req.fields(), done: done, tries: maxAttempts}
	if p.closed {
		_ = unix.Close(fd)
		a.failSoon(errClosed)
		return a
	}
	d := &dial{pool: p, share: sh}
	d.add(a)
	sh.dials = []*dial{d}
	p.single[sh] = struct{}{}
	d.shake(d.prepare(), fd)
	return a
}

// Silent tells that nothing has been heard of the peer yet: its host doesn't even answer to TCP.
func (a *Attempt) Silent() bool { return a.dial != nil && a.dial.silent }

// Cancel gives the attempt up. The dial that it waits for goes on, for those to come. done isn't called any more.
func (a *Attempt) Cancel() {
	a.done = nil
	if d := a.dial; d != nil {
		a.dial = nil
		d.waiters = slices.DeleteFunc(d.waiters, func(other *Attempt) bool { return other == a })
	}
	if s := a.stream; s != nil {
		a.stream, s.waiting = nil, nil
		s.t.forget(s)
		s.abort(errClosed, h2.Cancel)
	}
}

// try opens a stream on a tunnel that has room, or else waits for one. One dial serves as many waiters as its tunnel will have
// streams.
func (a *Attempt) try() {
	p := a.pool
	if p.closed {
		a.failSoon(errClosed)
		return
	}
	sh := p.shareOf(a)
	for _, t := range sh.byLoad() {
		s, err := t.open(a.fields)
		switch {
		case err == nil:
			a.stream, s.waiting = s, a
			sh.relieve(t, a)
			return
		case errors.Is(err, h2.ErrHeaderLimit):
			a.failSoon(err)
			return
		case errors.Is(err, h2.ErrMaxStreams):
			sh.room = t.room()
		}
	}
	if a.rounds++; a.rounds > maxRounds || sh.single {
		a.failSoon(&DialError{Stage: StageHTTP2, Addr: a.target.Addr, Err: h2.ErrMaxStreams})
		return
	}
	a.wait(sh)
}

func (p *Pool) shareOf(a *Attempt) *share {
	if a.share != nil {
		return a.share
	}
	sh := p.shared[a.key]
	if sh == nil {
		sh = &share{target: a.target, room: p.cfg.MaxStreams}
		sh.target.Expected = slices.Clone(a.target.Expected)
		p.shared[a.key] = sh
	}
	return sh
}

// relieve opens another tunnel beside a busy one that a stream has just joined for want of a better: the next will have it.
func (sh *share) relieve(t *tunnel, a *Attempt) {
	if t.blocked && len(sh.tunnels) < maxBusy && len(sh.dials) == 0 && !sh.single {
		a.begin(sh)
	}
}

// wait joins the dial that has room, or begins one.
func (a *Attempt) wait(sh *share) {
	for _, d := range sh.dials {
		if len(d.waiters) < sh.room {
			d.add(a)
			return
		}
	}
	a.begin(sh).add(a)
}

// begin begins a dial.
func (a *Attempt) begin(sh *share) *dial {
	d := &dial{pool: a.pool, key: a.key, share: sh}
	sh.dials = append(sh.dials, d)
	d.start()
	return d
}

// dialled takes the outcome of the dial that was waited for.
func (a *Attempt) dialled(err error) {
	a.dial = nil
	if err != nil {
		a.finish(nil, err)
		return
	}
	a.try()
}

// finish takes the answer, or why there is none; it tries another tunnel if the peer did not process the request.
func (a *Attempt) finish(s *Stream, err error) {
	on := a.stream
	a.stream = nil
	if errors.Is(err, errUnprocessed) {
		if a.tries++; a.tries < maxAttempts {
			a.try()
			return
		}
	} else if err != nil && on != nil {
		err = on.t.explain(err)
	}
	if done := a.done; done != nil {
		a.done = nil
		done(s, err)
	}
}

// failSoon fails the attempt when Connect has returned.
func (a *Attempt) failSoon(err error) {
	_ = a.pool.cfg.Loop.Post(func() { a.finish(nil, err) })
}
