package inbound

import (
	"context"
	"errors"
	"net"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/describe"
)

// What a CONNECT is answered. Peers act on the exact numbers.
const (
	statusOK          = 200
	statusBadRequest  = 400 // it is not for this pod
	statusDenied      = 401 // a policy stands against it
	statusUnavailable = 503 // it is for this pod, which can't take it
)

// HandleTunnel answers a tunnel's CONNECT, and returns when it is relayed or refused. ctx ends when the pod stops.
func (h *Handler) HandleTunnel(ctx context.Context, in *hbone.Incoming) {
	ctx, cancel := context.WithTimeout(ctx, decisionTimeout)
	defer cancel()
	defer context.AfterFunc(in.Context(), cancel)() // nobody waits for the answer any more
	a := arrival{client: in.Remote, peer: in.Peer, accepted: in.Local, request: in.Request, tunnel: true}
	f, app, status, err := h.letIn(ctx, a)
	if err != nil {
		in.Refuse(status)
		return
	}
	var described hbone.Baggage
	if h.cfg.Baggage {
		described = describe.Baggage(f.self)
	}
	stream, err := in.Accept(described)
	if err != nil {
		app.Close()
		f.fail(telemetry.FlagNone, err)
		return
	}
	if err := f.announce(app); err != nil {
		app.Close()
		stream.Reset()
		f.fail(telemetry.FlagConnect, err)
		return
	}
	f.join(func(done func(relay.Result)) *relay.Session { return stream.Join(app, done) })
}

// letIn goes through all steps before the answer. After an error the arrival is logged, and status says what to answer.
func (h *Handler) letIn(ctx context.Context, a arrival) (f *flow, app *net.TCPConn, status int, err error) {
	if a, status, err = h.aim(ctx, a); err != nil {
		h.refuse(a, telemetry.FlagConnect, err)
		return nil, nil, status, err
	}
	if f, err = h.admit(ctx, a); err != nil {
		h.refuse(a, flag(err), err)
		return nil, nil, statusOf(err), err
	}
	if app, err = h.dialFor(f); err != nil {
		f.fail(flag(err), err)
		return nil, nil, statusOf(err), err
	}
	return f, app, statusOK, nil
}

// aim fills in who the pod is and what of it the client wants.
func (h *Handler) aim(ctx context.Context, a arrival) (_ arrival, status int, err error) {
	if a.self, err = h.cfg.Self(ctx); err != nil {
		return a, statusUnavailable, err
	}
	if err := h.cfg.Learn(ctx, a.self, a.accepted.Addr(), a.request.Authority); err != nil {
		return a, statusUnavailable, err
	}
	table := h.cfg.Table()
	if err := validate(table, a.self, a.accepted.Addr(), a.request.Authority); err != nil {
		return a, statusBadRequest, err
	}
	if a.target, err = h.resolve(table, a.self, a.accepted.Addr(), a.request.Authority); err != nil {
		return a, statusUnavailable, err
	}
	return a, 0, nil
}

// statusOf tells a refusal by policy from what is broken.
func statusOf(err error) int {
	if errors.As(err, new(*deniedError)) {
		return statusDenied
	}
	return statusUnavailable
}

// Failed logs and counts tunnels that didn't come about: bad handshakes, protocol errors.
func (h *Handler) Failed(f hbone.Failure) {
	h.cfg.Metrics.Refuse(telemetry.Connection{Reporter: telemetry.Destination, Src: f.Remote, Dst: f.Local}, failureFlag(f), f.Err)
}

// failureFlag tells metrics what of a tunnel failed.
func failureFlag(f hbone.Failure) string {
	switch {
	case errors.As(f.Err, new(*mtls.RevokedError)):
		return telemetry.FlagRevoked
	case f.Stage == hbone.StageIdentity:
		return telemetry.FlagIdentity
	case f.Stage == hbone.StageHTTP2:
		return telemetry.FlagHTTP2
	}
	return telemetry.FlagTLS
}
