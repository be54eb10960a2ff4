// Package outbound carries the connections that a pod's applications make: it decides for each where it goes and how,
// then brings it there.
//
// The steps of a connection, in order; each is one function:
//
//  1. self       the pod as a workload, waited for if need be               Config.Self
//  2. decide     service, waypoint, endpoint, protocol, identities           decide.go, from the table alone: a Route
//  3. register   from here on the connection can be cut                     Handler.register
//  4. complete   the endpoint's address, if it only has a name              flow.complete, DNS
//  5. connect    a stream through a pooled tunnel, or a plain connection    flow.connect
//  6. relay      bytes both ways; no goroutine of ours is left              flow.join
//
// When 4 or 5 fails, another endpoint is decided for, a few times. Tunnels are cached by the pool, everything else is decided
// anew for each connection. A refusal at any step closes the connection with a reset.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/describe"
)

// connectTimeout bounds everything between the decision and the relay: a peer may wait for its own configuration (5 s)
// and its application (10 s) before it answers a tunnelled connection.
const connectTimeout = 30 * time.Second

var errDouble = errors.New("the destination is in another network, which this ztunnel can't reach yet")

// Config is what the connections of one pod need. All fields are required.
type Config struct {
	// Self returns the pod as a workload. It waits a little for the control plane to name it, and makes do with what
	// the node agent told otherwise.
	Self func(context.Context) (*state.Workload, error)
	// Learn waits until the table has what is needed to decide about a connection to an address.
	Learn   func(ctx context.Context, from *state.Workload, to netip.Addr) error
	Table   func() *state.Table
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Pool    *hbone.Pool
	// Dial connects in plain text from inside the pod.
	Dial     func(context.Context, netip.AddrPort) (*net.TCPConn, error)
	Registry *capture.Registry
	Metrics  *telemetry.Metrics
	Open     *balance.Open // of the whole node
}

// Handler takes the captured connections of one pod.
type Handler struct{ cfg Config }

// New makes a handler.
func New(cfg Config) *Handler { return &Handler{cfg: cfg} }

// Handle takes the connection over, and returns when it is relayed or refused. ctx ends when the pod stops.
func (h *Handler) Handle(ctx context.Context, conn capture.Conn) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	from, err := h.cfg.Self(ctx)
	if err != nil {
		h.refuse(conn, nil, Route{}, fmt.Errorf("who the client is: %w", err))
		return
	}
	if err := h.cfg.Learn(ctx, from, conn.Original.Addr()); err != nil {
		h.refuse(conn, from, Route{}, err)
		return
	}
	call := &Call{Table: h.cfg.Table(), From: from, Client: conn.Client, To: conn.Original, Open: h.cfg.Open}
	r, err := call.Decide()
	if err != nil {
		h.refuse(conn, from, r, err)
		return
	}
	f, err := h.register(conn, call, r)
	if err != nil {
		h.refuse(conn, from, r, err)
		return
	}
	f.run(ctx)
}

// refuse turns a connection away that was not tried.
func (h *Handler) refuse(conn capture.Conn, from *state.Workload, r Route, err error) {
	conn.Refuse()
	if !r.Addr.IsValid() {
		r.Addr = conn.Original.AddrPort
	}
	h.cfg.Metrics.Refuse(record(conn.Client, from, r), telemetry.FlagConnect, err)
}

// flow is a connection with a route.
type flow struct {
	handler *Handler
	conn    capture.Conn
	call    *Call
	route   Route
	entry   *capture.Entry
	trace   hbone.TraceParent
	start   time.Time
	metric  *telemetry.Conn // nil until connecting has succeeded or failed for good
}

// register makes the connection known. It fails when the pod is stopping.
func (h *Handler) register(conn capture.Conn, call *Call, r Route) (*flow, error) {
	protocol := "TCP"
	if r.Kind.Tunnelled() {
		protocol = "HBONE"
	}
	entry, err := h.cfg.Registry.Add(capture.Info{
		Direction: capture.Outbound,
		Src:       conn.Client.String(),
		Original:  conn.Original.String(),
		Actual:    r.Addr.String(),
		Protocol:  protocol,
	}, nil)
	if err != nil {
		return nil, err
	}
	h.cfg.Metrics.Sockets(telemetry.Source).Inc()
	return &flow{handler: h, conn: conn, call: call, route: r, entry: entry, trace: describe.Trace(h.cfg.Metrics), start: time.Now()}, nil
}

// run connects and relays. Until the relay has it, cutting the connection ends the attempt.
func (f *flow) run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.entry.OnCut(cancel)
	cfg := f.handler.cfg
	f.route.Count(cfg.Open, 1)
	stream, upstream, err := f.connect(ctx)
	for ctx.Err() == nil && elsewhere(err) {
		f.call.Table = cfg.Table()
		next, none := f.call.Next(&f.route)
		if none != nil {
			break
		}
		f.route.Count(cfg.Open, -1)
		f.route = next
		f.route.Count(cfg.Open, 1)
		stream, upstream, err = f.connect(ctx)
	}
	f.call.Table, f.call.tried = nil, nil // else an old table lives as long as the connection
	told := record(f.conn.Client, f.call.From, f.route)
	told.Trace, told.Start = string(f.trace), f.start
	f.metric = cfg.Metrics.Open(told)
	if err != nil {
		f.conn.Refuse()
		if reason := f.entry.Reason(); reason != nil {
			err = reason
		}
		f.end(flag(err), err)
		return
	}
	f.join(stream, upstream)
}

// elsewhere tells of a failure to connect that another endpoint may not have. Nothing of the client was sent yet.
func elsewhere(err error) bool {
	var status *hbone.StatusError
	if errors.As(err, &status) {
		return status.Status != 401 // another endpoint has the same policies
	}
	var dial *hbone.DialError
	if errors.As(err, &dial) {
		return dial.Stage != hbone.StageIdentity // it is our own certificate
	}
	return err != nil && !errors.Is(err, errDouble)
}

// complete resolves the name of an endpoint that has no address.
func (f *flow) complete(ctx context.Context) error {
	if f.route.Host == "" {
		return nil
	}
	addrs, err := f.handler.cfg.Resolve(ctx, f.route.Host)
	if err != nil {
		return fmt.Errorf("resolve %s, where workload %s is: %w", f.route.Host, f.route.Workload.UID, err)
	}
	f.route, err = f.route.Resolved(addrs, f.conn.Original)
	return err
}

// connect returns a stream or a plain connection, as the route says.
func (f *flow) connect(ctx context.Context) (*hbone.Stream, *net.TCPConn, error) {
	cfg := f.handler.cfg
	if err := f.complete(ctx); err != nil {
		return nil, nil, err
	}
	switch {
	case f.route.Kind == Double:
		return nil, nil, errDouble
	case !f.route.Kind.Tunnelled():
		upstream, err := cfg.Dial(ctx, f.route.Addr)
		return nil, upstream, err
	}
	target := hbone.Target{Source: f.call.From.Identity, Expected: f.route.Expected, Addr: f.route.Addr}
	request := hbone.Request{
		Authority: f.route.Authority,
		Baggage:   describe.Baggage(f.call.From),
		Forwarded: hbone.Forwarded{For: f.conn.Client.AddrPort},
		Trace:     f.trace,
	}
	if f.route.Service != nil {
		request.Forwarded.Host = f.route.Service.Hostname
	}
	stream, err := cfg.Pool.Connect(ctx, target, request)
	return stream, nil, err
}

// join hands both sides to a relay.
func (f *flow) join(stream *hbone.Stream, upstream *net.TCPConn) {
	var result relay.Result
	ended := capture.AfterBoth(func() { f.end(telemetry.FlagNone, result.Err) })
	done := func(r relay.Result) { result = r; ended() }
	var session *relay.Session
	if stream != nil {
		session = stream.Join(f.conn.TCPConn, done)
	} else {
		session = relay.Join(f.conn.TCPConn, upstream, done)
	}
	f.metric.Follow(session.Counts)
	f.entry.OnCut(session.Cut)
	ended()
}

func (f *flow) end(flag string, err error) {
	f.metric.Close(flag, err)
	f.route.Count(f.handler.cfg.Open, -1)
	f.handler.cfg.Metrics.Sockets(telemetry.Source).Dec()
	f.entry.Remove()
}

// flag tells metrics why a connection could not be made.
func flag(err error) string {
	if errors.As(err, new(*mtls.RevokedError)) {
		return telemetry.FlagRevoked
	}
	var status *hbone.StatusError
	if errors.As(err, &status) {
		if status.Status == 401 {
			return telemetry.FlagDenied
		}
		return telemetry.FlagConnect
	}
	var dial *hbone.DialError
	if errors.As(err, &dial) {
		switch dial.Stage {
		case hbone.StageIdentity:
			return telemetry.FlagIdentity
		case hbone.StageTLS:
			return telemetry.FlagTLS
		case hbone.StageHTTP2:
			return telemetry.FlagHTTP2
		}
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Timeout() {
		return telemetry.FlagNetworkPolicy // nothing answered, which mostly means that somebody drops port 15008
	}
	return telemetry.FlagConnect
}
