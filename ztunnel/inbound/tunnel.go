package inbound

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

var errGone = errors.New("the client gave up before it was answered")

// What a CONNECT is answered. Peers act on the exact numbers.
const (
	statusBadRequest  = 400 // it is not for this pod
	statusDenied      = 401 // a policy stands against it
	statusUnavailable = 503 // it is for this pod, which can't take it
)

// HandleTunnel answers a tunnel's CONNECT, on its worker, at once or later. ctx ends when the pod stops.
func (h *Handler) HandleTunnel(ctx context.Context, w *worker.Worker, in *hbone.Incoming) {
	f := &flow{
		arrival: arrival{client: in.Remote, peer: in.Peer, accepted: in.Local, request: in.Request, tunnel: true},
		handler: h, worker: w, in: in,
	}
	in.OnGone(func() { f.fail(errGone) })
	f.start(ctx)
}

// joinTunnel is steps 6 and 7 for a tunnel's arrival.
func (f *flow) joinTunnel(app int) {
	var described hbone.Baggage
	if f.handler.cfg.Baggage {
		described = describe.Baggage(f.self)
	}
	stream, err := f.in.Accept(described)
	if err != nil {
		_ = unix.Close(app)
		f.close(telemetry.FlagNone, err)
		return
	}
	if err := f.announce(app); err != nil {
		_ = unix.Close(app)
		stream.Reset()
		f.close(telemetry.FlagConnect, err)
		return
	}
	f.join(stream.Join(app, f.over))
}

// statusOf tells a refusal by policy, and what is for somebody else, from what is broken.
func statusOf(err error) int {
	switch {
	case errors.As(err, new(*deniedError)):
		return statusDenied
	case errors.Is(err, errMismatch):
		return statusBadRequest
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
