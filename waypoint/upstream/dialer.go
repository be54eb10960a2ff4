package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
	"github.com/tulle-mesh/tulle/waypoint/secure"
)

// resolveTimeout is how long the address of an endpoint that has only a name is waited for.
const resolveTimeout = 5 * time.Second

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
	Fresh   bool // a connection that was kept won't do
	// TLS is what the endpoint has to prove; nil if it isn't spoken to by TLS. Either says that it may choose its version of HTTP then.
	TLS    *secure.Policy
	Either bool
	offer  []string // of protocols, by TLS
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

// Dial connects, and calls done once, after it has returned, unless it is cancelled. There is no deadline but those of dialling. By TLS done
// hears the protocol that the server has chosen, else "".
func (d *Dialer) Dial(e *Endpoint, asked Asked, done func(*pipe.Pipe, string, error)) *Dialling {
	var now *Dialling
	now = d.reach(e, asked, func(p *pipe.Pipe, err error) {
		if err != nil || asked.TLS == nil {
			done(p, "", err)
			return
		}
		now = &Dialling{cancel: secure.Client(p, asked.TLS, asked.offer, done), silent: func() bool { return false }}
	})
	return &Dialling{cancel: func() { now.Cancel() }, silent: func() bool { return now.Silent() }}
}

// reach is Dial without TLS.
func (d *Dialer) reach(e *Endpoint, asked Asked, done func(*pipe.Pipe, error)) *Dialling {
	if e.Host != "" {
		return d.dialHost(*e, asked, done)
	}
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

// dialHost is reach for an endpoint of which only the name is known.
func (d *Dialer) dialHost(e Endpoint, asked Asked, done func(*pipe.Pipe, error)) *Dialling {
	var dialling Dialling
	var addrs []netip.Addr
	cancel := d.Worker.Ask(context.Background(), func(ctx context.Context) (err error) {
		ctx, end := context.WithTimeout(ctx, resolveTimeout)
		defer end()
		addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", e.Host)
		return err
	}, func(err error) {
		if err == nil && len(addrs) == 0 {
			err = errors.New("no address")
		}
		if err != nil {
			done(nil, fmt.Errorf("resolve %s, where workload %s is: %w", e.Host, e.Workload.UID, err))
			return
		}
		e.Addr, e.Host = netip.AddrPortFrom(addrs[rand.IntN(len(addrs))].Unmap(), e.Addr.Port()), ""
		dialling = *d.reach(&e, asked, done)
	})
	dialling = Dialling{cancel: cancel, silent: func() bool { return false }}
	return &Dialling{cancel: func() { dialling.Cancel() }, silent: func() bool { return dialling.Silent() }}
}
