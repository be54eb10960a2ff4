package outbound

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// connect is step 5: a stream or a plain connection, as the route says.
func (f *flow) connect() {
	f.entry.Leads(f.route.Addr, f.route.Kind.tunnels())
	if f.route.Workload != nil { // else there is no other endpoint
		f.worker.After(&f.silence, silenceTimeout)
	}
	switch {
	case f.route.Kind == Double:
		f.connectTunnel(f.enter)
	case f.route.Kind.Tunnelled():
		f.connectTunnel(f.joinStream)
	default:
		f.connectPlain()
	}
}

func (f *flow) connectPlain() {
	dialling, err := f.handler.cfg.Dial(f.worker, f.route.Addr, func(fd int, err error) {
		f.stop, f.silent = nil, nil
		if err != nil {
			f.failed(err)
			return
		}
		f.settle()
		f.relayed(relay.Join(f.worker.Loop, f.conn.FD, fd, f.over))
	})
	if err != nil {
		f.failed(err)
		return
	}
	f.stop, f.silent = dialling.Cancel, func() bool { return true }
}

// connectTunnel opens a stream on a pooled tunnel, and hands it on.
func (f *flow) connectTunnel(next func(*hbone.Stream)) {
	target := hbone.Target{Source: f.call.From.Identity, Expected: f.route.Expected, Addr: f.route.Addr}
	attempt := f.handler.cfg.Pool(f.worker).Connect(target, f.request(), f.answered(next))
	f.stop, f.silent = attempt.Cancel, attempt.Silent
}

func (f *flow) answered(next func(*hbone.Stream)) func(*hbone.Stream, error) {
	return func(s *hbone.Stream, err error) {
		f.stop, f.silent = nil, nil
		if err != nil {
			f.failed(err)
			return
		}
		next(s)
	}
}

func (f *flow) request() hbone.Request {
	r := hbone.Request{
		Authority: f.route.Authority,
		Baggage:   describe.Baggage(f.call.From),
		Forwarded: hbone.Forwarded{For: f.conn.Client.AddrPort},
		Trace:     f.trace,
	}
	if f.route.Service != nil {
		r.Forwarded.Host = f.route.Service.Hostname
	}
	return r
}

// enter opens the tunnel in the tunnel that leads to another network. The two meet in a pair of sockets, so that neither needs
// to know of the other.
func (f *flow) enter(outer *hbone.Stream) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		outer.Reset()
		f.fail(fmt.Errorf("join two tunnels: %w", err))
		return
	}
	outer.Join(pair[0], func(relay.Result) {})
	request := f.request()
	request.Authority, request.Network = f.route.Inner.Authority, f.handler.cfg.Network
	target := hbone.Target{Source: f.call.From.Identity, Expected: f.route.Inner.Expected, Addr: f.route.Addr}
	f.stop = f.handler.cfg.Pool(f.worker).ConnectOver(pair[1], target, request, f.answered(func(inner *hbone.Stream) {
		reached := describe.Told(inner.Baggage, inner.Peer())
		f.reached = &reached
		f.joinStream(inner)
	})).Cancel
}

// joinStream is step 6.
func (f *flow) joinStream(s *hbone.Stream) {
	f.settle()
	f.relayed(s.Join(f.conn.FD, f.over))
}

// settle ends what is only for connecting.
func (f *flow) settle() {
	f.conn.Decided()
	f.worker.Stop(&f.timer)
	f.worker.Stop(&f.silence)
}
