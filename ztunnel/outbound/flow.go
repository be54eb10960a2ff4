package outbound

import (
	"context"
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// flow is a connection on its way through the steps. It lives on the worker that has accepted it.
type flow struct {
	handler *Handler
	ctx     context.Context // ends when the pod stops
	conn    capture.Conn
	worker  *worker.Worker
	call    Call
	route   Route
	timer   loop.Timer // connectTimeout
	silence loop.Timer // silenceTimeout
	trace   trace.Context
	start   time.Time

	reached *telemetry.Peer // what the workload in another network says that it is
	entry   *capture.Entry  // from step 3 on
	metric  *telemetry.Conn // from when connecting has succeeded or failed for good
	stop    func()          // gives up what is under way; nil when nothing is
	silent  func() bool     // tells that nothing was heard of the endpoint that is being connected to
	joined  bool            // the relay has it
	ended   bool
}

// wait asks in a goroutine, and goes on with next on the worker. ask must not touch the flow.
func (f *flow) wait(ask func(context.Context) error, next func()) {
	f.stop = f.worker.Ask(f.ctx, ask, func(err error) {
		f.stop = nil
		if err != nil {
			f.fail(err)
			return
		}
		next()
	})
}

// cut ends the flow for a reason of the registry's, until a relay has it.
func (f *flow) cut(reason error) {
	_ = f.worker.Post(func() {
		if !f.joined {
			f.fail(reason)
		}
	})
}

// relayed notes that a relay has begun.
func (f *flow) relayed(session *relay.Session) {
	f.joined = true
	if f.route.Workload != nil {
		f.handler.cfg.Open.Reached(f.route.Workload, f.route.target())
	}
	f.open()
	f.metric.Follow(session.Counts)
	f.entry.OnCut(session.Cut)
}

// open counts the connection, and lets go of what only connecting needs: an old table must not live as long as the connection.
func (f *flow) open() {
	told := record(f.conn.Client, f.call.From, f.route)
	if f.reached != nil {
		told.Destination = *f.reached
	}
	told.Trace, told.Start = f.trace, f.start
	f.metric = f.handler.cfg.Metrics.Open(told)
	f.call = Call{}
}

// over is called when the relay has ended.
func (f *flow) over(r relay.Result) {
	flag := telemetry.FlagNone
	if errors.As(r.Err, new(*mtls.RevokedError)) {
		flag = telemetry.FlagRevoked
	}
	f.close(flag, r.Err)
}

// fail ends a flow that isn't relayed; the application sees a reset.
func (f *flow) fail(err error) {
	if f.ended {
		return
	}
	f.conn.Refuse()
	if f.entry != nil {
		f.open()
		f.close(describe.Flag(err), err)
		return
	}
	f.release()
	if !f.route.Addr.IsValid() {
		f.route.Addr = f.conn.Original.AddrPort
	}
	f.handler.cfg.Metrics.Refuse(record(f.conn.Client, f.call.From, f.route), describe.Flag(err), err)
}

// close ends the flow's record.
func (f *flow) close(flag string, err error) {
	f.release()
	f.metric.Close(flag, err)
	f.route.Count(f.handler.cfg.Open, -1)
	f.handler.cfg.Metrics.Sockets(telemetry.Source).Dec()
	f.entry.Remove()
}

// release lets go of what is under way.
func (f *flow) release() {
	f.ended = true
	f.worker.Stop(&f.timer)
	f.worker.Stop(&f.silence)
	if f.stop != nil {
		f.stop()
		f.stop = nil
	}
}
