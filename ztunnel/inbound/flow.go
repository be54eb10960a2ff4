package inbound

import (
	"context"
	"errors"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// flow is an arrival on its way through the steps. It lives on the worker that has accepted the connection; nothing there waits:
// a step that can't be done at once goes on in wait, or when the dial is done.
type flow struct {
	arrival
	handler *Handler
	worker  *worker.Worker
	conn    capture.Conn    // in plain text
	in      *hbone.Incoming // of a tunnel
	timer   loop.Timer      // decisionTimeout

	entry  *capture.Entry  // from step 4 on
	metric *telemetry.Conn // from when it is admitted
	stop   func()          // gives up what is under way; nil when nothing is
	joined bool            // the relay has it
	ended  bool
}

var errTooSlow = errors.New("the decision took too long")

// start begins with step 1.
func (f *flow) start(ctx context.Context) {
	f.timer.Run = func() { f.fail(errTooSlow) }
	f.worker.After(&f.timer, decisionTimeout)
	asks := f.tunnel && f.handler.cfg.Demand != nil
	if f.self = f.handler.cfg.Known(f.handler.cfg.Table()); f.self != nil && !asks {
		f.aim(ctx)
		return
	}
	var self *state.Workload
	local, asked := f.accepted.Addr(), f.request.Authority
	f.wait(ctx, func(ctx context.Context) (err error) {
		if self, err = f.handler.cfg.Self(ctx); err == nil && asks {
			err = learn(ctx, f.handler.cfg.Demand, self, local, asked)
		}
		return err
	}, func() {
		f.self = self
		f.aim(ctx)
	})
}

// wait asks in a goroutine, and goes on with next on the worker. ask must not touch the flow.
func (f *flow) wait(ctx context.Context, ask func(context.Context) error, next func()) {
	f.stop = f.worker.Ask(ctx, ask, func(err error) {
		f.stop = nil
		if err != nil {
			f.fail(err)
			return
		}
		next()
	})
}

// aim is steps 2 and 3.
func (f *flow) aim(ctx context.Context) {
	if f.tunnel {
		table := f.handler.cfg.Table()
		err := validate(table, f.self, f.accepted.Addr(), f.request.Authority)
		if err == nil {
			f.target, err = f.handler.resolve(table, f.self, f.accepted.Addr(), f.request.Authority)
		}
		if err != nil {
			f.fail(err)
			return
		}
	}
	f.admit(ctx)
}

// connected goes on when the application has accepted.
func (f *flow) connected(app int) {
	f.worker.Stop(&f.timer)
	if f.tunnel {
		f.joinTunnel(app)
		return
	}
	f.joinPlain(app)
}

// join notes that a relay has begun, whose first side is the application.
func (f *flow) join(session *relay.Session) {
	f.joined = true
	f.metric.Follow(session.Counts)
	f.entry.OnCut(session.Cut)
}

// over is called when the relay has ended.
func (f *flow) over(r relay.Result) {
	flag := telemetry.FlagNone
	switch {
	case errors.As(r.Err, new(*deniedError)):
		flag = telemetry.FlagDenied
	case errors.As(r.Err, new(*mtls.RevokedError)):
		flag = telemetry.FlagRevoked
	}
	f.close(flag, r.Err)
}

// cut ends the flow for a reason of the registry's, until a relay has it.
func (f *flow) cut(reason error) {
	_ = f.worker.Post(func() {
		if !f.joined {
			f.fail(reason)
		}
	})
}

// fail ends a flow that isn't relayed, and tells the client.
func (f *flow) fail(err error) {
	if f.ended {
		return
	}
	f.answer(statusOf(err))
	if f.metric == nil {
		f.refused(err)
	} else {
		f.close(flag(err), err)
	}
}

// answer tells the client that it doesn't get in.
func (f *flow) answer(status int) {
	if f.tunnel {
		f.in.Refuse(status)
	} else {
		f.conn.Refuse()
	}
}

// refused counts and logs an arrival that was turned away before it was admitted.
func (f *flow) refused(err error) {
	f.release()
	f.handler.cfg.Metrics.Refuse(f.handler.describe(f.arrival), flag(err), err)
}

// close ends the flow's record.
func (f *flow) close(flag string, err error) {
	f.release()
	f.metric.Close(flag, err)
	if !f.tunnel { // a tunnel's arrival has no socket of its own
		f.handler.cfg.Metrics.Sockets(telemetry.Destination).Dec()
	}
}

// release lets go of whatever the flow holds.
func (f *flow) release() {
	f.ended = true
	f.worker.Stop(&f.timer)
	if f.stop != nil {
		f.stop()
		f.stop = nil
	}
	if f.entry != nil {
		f.entry.Remove()
	}
}
