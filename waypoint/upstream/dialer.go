package upstream

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// Dialer connects to endpoints, on one worker.
type Dialer struct {
	Worker   *worker.Worker
	Pool     *hbone.Pool
	Identity identity.Workload // the waypoint's own
}

// Asked is what the server's side is told of a connection.
type Asked struct {
	Baggage hbone.Baggage // of the waypoint, which is the client of that side
	Client  netip.AddrPort
	Service string // the hostname of the service that was dialled, or ""
	Trace   trace.Context
	Fresh   bool // a connection that was kept won\'t do
}

// Dialling is a connection that is being made.
type Dialling struct {
	cancel func()
	silent func() bool
}

// failSoon calls fail in this worker's next turn, unless it is cancelled.
func (d *Dialer) failSoon(fail func()) *Dialling {
	cancelled := false
	_ = d.Worker.Post(func() { // fails only when the program has ended
		if !cancelled {
			fail()
		}
	})
	return &Dialling{cancel: func() { cancelled = true }, silent: func() bool { return false }}
}

// Cancel gives up; done isn't called any more. Don't call it after done.
func (d *Dialling) Cancel() { d.cancel() }

// Silent tells that nothing has been heard of the endpoint yet.
func (d *Dialling) Silent() bool { return d.silent() }

// Dial connects, and calls done once, after it has returned, unless it is cancelled. There is no deadline but those of dialling.
func (d *Dialer) Dial(e *Endpoint, asked Asked, done func(*pipe.Pipe, error)) *Dialling {
	if !e.Tunnelled() {
		dialling, err := d.Worker.Dial(nil, e.Addr, socket.DialConfig{}, func(fd int, err error) {
			if err != nil {
				done(nil, err)
				return
			}
			done(pipe.OverSocket(d.Worker.Loop, fd, nil), nil)
		})
		if err != nil {
			return d.failSoon(func() { done(nil, err) })
		}
		return &Dialling{cancel: dialling.Cancel, silent: func() bool { return true }}
	}
	target := hbone.Target{Source: d.Identity, Expected: e.Expected, Addr: e.Dialled()}
	request := hbone.Request{
		Authority: hbone.AuthorityFromAddr(e.Addr), Baggage: asked.Baggage, Trace: asked.Trace,
		Forwarded: hbone.Forwarded{For: asked.Client, Host: asked.Service},
	}
	attempt := d.Pool.Connect(target, request, func(s *hbone.Stream, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(pipe.OverStream(d.Worker.Loop, s), nil)
	})
	return &Dialling{cancel: attempt.Cancel, silent: attempt.Silent}
}
