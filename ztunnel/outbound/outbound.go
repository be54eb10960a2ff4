// Package outbound carries the connections that a pod's applications make: it decides for each where it goes and how,
// then brings it there.
//
// The steps of a connection, in order; each is one function:
//
//  1. self       the pod as a workload, waited for if need be               Config.Self
//  2. decide     service, waypoint, endpoint, protocol, identities           decide.go, from the table alone: a Route
//  3. register   from here on the connection can be cut                     flow.register
//  4. complete   the endpoint's address, if it only has a name              flow.complete, DNS
//  5. connect    a stream through a pooled tunnel, or a plain connection    flow.connect
//  6. relay      bytes both ways                                            flow.join
//
// All of it happens on the worker that has accepted the connection, where nothing waits: steps 1 and 4 ask in a goroutine if
// need be, step 5 goes on when the connection is there. When 4 or 5 fails, or nothing is heard of the endpoint, another one is decided for, a few
// times. Tunnels
// are cached by the pool, everything else is decided anew for each connection. A refusal at any step closes the connection with
// a reset.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// silenceTimeout is how long an endpoint that has said nothing is waited for while there is another one to try. A SYN that gets lost
// is sent again after a second, so one loss is no reason to leave. The last endpoint has all the time of a dial.
const silenceTimeout = 1500 * time.Millisecond

// connectTimeout bounds everything between the decision and the relay: a peer may wait for its own configuration (5 s)
// and its application (10 s) before it answers a tunnelled connection.
const connectTimeout = 30 * time.Second

var errTooSlow = errors.New("connecting took too long")

// Config is what the connections of one pod need. All fields but Demand are required.
type Config struct {
	Known func(*state.Table) *state.Workload // the pod as a workload; nil if the table hasn't it
	// Self waits a little for the control plane to name the pod, and makes do with what the node agent told otherwise.
	Self    func(context.Context) (*state.Workload, error)
	Demand  *demand.Cache // learns what the table lacks for a decision; nil where it has everything
	Table   func() *state.Table
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Pool    func(*worker.Worker) *hbone.Pool
	// Dial connects in plain text from inside the pod, as worker.Dial does.
	Dial     func(w *worker.Worker, to netip.AddrPort, done func(fd int, err error)) (*worker.Dialling, error)
	Network  string // ours
	Registry *capture.Registry
	Metrics  *telemetry.Metrics
	Open     *balance.Open // of the whole node
}

// Handler takes the captured connections of one pod.
type Handler struct{ cfg Config }

// New makes a handler.
func New(cfg Config) *Handler { return &Handler{cfg: cfg} }

// Handle takes the connection over, on its worker. ctx ends when the pod stops.
func (h *Handler) Handle(ctx context.Context, conn capture.Conn) {
	f := &flow{
		handler: h, ctx: ctx, conn: conn, worker: conn.Worker,
		trace: describe.Trace(h.cfg.Metrics), start: conn.Worker.Now(),
	}
	f.timer.Run = func() { f.fail(errTooSlow) }
	f.silence.Run = f.impatient
	f.worker.After(&f.timer, connectTimeout)
	table := h.cfg.Table()
	if from := h.cfg.Known(table); from != nil && len(h.cfg.Demand.Missing(table, from, conn.Original.Addr())) == 0 {
		f.decide(table, from)
		return
	}
	var from *state.Workload
	f.wait(func(ctx context.Context) (err error) {
		from, err = h.learn(ctx, conn.Original.Addr())
		return err
	}, func() { f.decide(h.cfg.Table(), from) })
}

// learn waits for what is needed to decide.
func (h *Handler) learn(ctx context.Context, to netip.Addr) (*state.Workload, error) {
	from, err := h.cfg.Self(ctx)
	if err != nil {
		return nil, fmt.Errorf("who the client is: %w", err)
	}
	return from, h.cfg.Demand.Learn(ctx, from, to)
}

// decide is step 2.
func (f *flow) decide(table *state.Table, from *state.Workload) {
	f.call = Call{Table: table, From: from, Client: f.conn.Client, To: f.conn.Original, Open: f.handler.cfg.Open}
	r, err := f.call.Decide()
	f.route = r
	if err == nil {
		err = f.register()
	}
	if err != nil {
		f.fail(err)
		return
	}
	f.complete()
}

// register makes the connection known. It fails when the pod is stopping.
func (f *flow) register() error {
	entry, err := f.handler.cfg.Registry.Add(capture.Facts{
		Direction: capture.Outbound, Src: f.conn.Client.AddrPort, Asked: f.conn.Original.AddrPort, Next: f.route.Addr, Tunnels: f.route.Kind.tunnels(),
	}, nil)
	if err != nil {
		return err
	}
	f.entry = entry
	entry.OnCut(f.cut)
	f.handler.cfg.Metrics.Sockets(telemetry.Source).Inc()
	f.route.Count(f.handler.cfg.Open, 1)
	return nil
}

// failed tries another endpoint after connecting has failed.
func (f *flow) failed(err error) {
	cfg := f.handler.cfg
	if f.ctx.Err() != nil || !hbone.Elsewhere(err) { // the pod is stopping: it is no fault of the endpoint's
		f.fail(err)
		return
	}
	f.call.Table = cfg.Table()
	next, none := f.call.Next(&f.route)
	if none != nil {
		f.fail(err)
		return
	}
	f.route.Count(cfg.Open, -1)
	f.route = next
	f.route.Count(cfg.Open, 1)
	f.complete()
}

// impatient goes to another endpoint, if there is one, when nothing is heard of the one at hand: a host that is gone would cost the
// whole time of a dial. Who answers, however slowly, is waited for.
func (f *flow) impatient() {
	f.call.Table = f.handler.cfg.Table()
	if f.silent == nil || !f.silent() || !f.call.another(&f.route) {
		return
	}
	f.stop()
	f.stop = nil
	f.failed(&loop.ConnectTimeout{After: silenceTimeout})
}

// complete is step 4: it resolves the name of an endpoint that has no address.
func (f *flow) complete() {
	if f.route.Host == "" {
		f.connect()
		return
	}
	host := f.route.Host
	var addrs []netip.Addr
	var unresolved error
	f.wait(func(ctx context.Context) error {
		addrs, unresolved = f.handler.cfg.Resolve(ctx, host)
		return nil // another endpoint may do
	}, func() {
		r, err := f.route.Resolved(addrs, unresolved, f.conn.Original)
		if err != nil {
			f.failed(err)
			return
		}
		f.route = r
		f.connect()
	})
}
