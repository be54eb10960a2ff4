package inbound

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/policy"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// arrival is what is known of a connection that wants in. Fields are filled in as the steps go.
type arrival struct {
	client   netip.AddrPort    // the TCP peer
	peer     identity.Workload // proven by the tunnel; zero in plain text
	accepted netip.AddrPort    // where it arrived
	target   target
	request  hbone.Request // of a tunnel
	tunnel   bool
	self     *state.Workload // nil before step 1
}

// flow is an admitted arrival.
type flow struct {
	arrival
	ctx    context.Context // ends when the entry is cut before the relay begins
	cancel context.CancelFunc
	entry  *capture.Entry
	metric *telemetry.Conn

	sockets func(n int) // counts accepted sockets; a tunnel's arrival has none of its own
}

// deniedError says what stands against a connection.
type deniedError struct {
	late   bool   // the connection had been let in before
	reason string // with the policy's name, if it was a single one
}

func (e *deniedError) Error() string {
	if e.late {
		return "connection closed due to policy change: " + e.reason
	}
	return "connection refused by policy: " + e.reason
}

// admit registers the arrival and asks the policies, in this order and about the newest state: whatever changes in between
// finds the arrival in the registry, or is heeded here.
func (h *Handler) admit(ctx context.Context, a arrival) (*flow, error) {
	j := &judge{handler: h, arrival: a}
	j.last.Store(a.self)
	entry, err := h.cfg.Registry.Add(h.info(a), j.recheck)
	if err != nil {
		return nil, err
	}
	verdict := j.settled(ctx)
	h.log(a, verdict)
	if !verdict.Allowed {
		entry.Remove()
		return nil, &deniedError{reason: verdict.Reason}
	}
	f := &flow{arrival: a, entry: entry, metric: h.cfg.Metrics.Open(h.describe(a)), sockets: func(int) {}}
	if !a.tunnel {
		f.sockets = func(n int) { h.cfg.Metrics.Sockets(telemetry.Destination).Add(float64(n)) }
	}
	f.sockets(1)
	attempt, cancel := context.WithCancelCause(ctx)
	f.ctx, f.cancel = attempt, func() { cancel(context.Canceled) }
	entry.OnCut(cancel)
	return f, nil
}

// judge asks the policies about an arrival, again and again. A pod that the control plane no longer names keeps its last
// description: it may be ending, and its connections with it in their own time.
type judge struct {
	handler *Handler
	arrival arrival
	last    atomic.Pointer[state.Workload]
}

func (j *judge) verdict() policy.Verdict {
	table := j.handler.cfg.Table()
	self := j.handler.cfg.Known(table)
	if self == nil {
		self = j.last.Load()
	}
	j.last.Store(self)
	return policy.Evaluate(table, self, j.arrival.facts())
}

// settled is the verdict on a new arrival. Between the update of a pod and that of its policies it may not be there yet;
// what isn't known even after a wait may be a DENY.
func (j *judge) settled(ctx context.Context) policy.Verdict {
	verdict := j.verdict()
	if !verdict.Pending {
		return verdict
	}
	ctx, cancel := context.WithTimeout(ctx, pendingTimeout)
	defer cancel()
	j.handler.cfg.Wait(ctx, func(*state.Table) bool { // When the time is up, the last verdict stands.
		verdict = j.verdict()
		return !verdict.Pending
	})
	return verdict
}

// recheck is the registry's question. It was allowed before; while the policies aren't all known that holds, since the
// update which completes them makes the registry ask again.
func (j *judge) recheck() error {
	if verdict := j.verdict(); !verdict.Allowed && !verdict.Pending {
		return &deniedError{late: true, reason: verdict.Reason}
	}
	return nil
}

// log tells what the policies said, unless they said nothing.
func (h *Handler) log(a arrival, verdict policy.Verdict) {
	if verdict.Allowed && len(verdict.DryRun) == 0 {
		return
	}
	h.cfg.Log.Log(context.Background(), h.cfg.Policies, "policy decision", "src", a.client, "dst", a.target.AddrPort,
		"identity", a.peer.String(), "allowed", verdict.Allowed, "policy", verdict.Policy, "reason", verdict.Reason, "dry_run", verdict.DryRun)
}

func (a *arrival) facts() policy.Facts {
	return policy.Facts{Peer: a.peer, Source: a.client, Destination: a.target.AddrPort}
}

func (h *Handler) info(a arrival) capture.Info {
	info := capture.Info{Direction: capture.Inbound, Src: a.client.String(), Actual: a.target.String(), Protocol: "TCP"}
	if a.tunnel {
		info.Original, info.Protocol = a.request.Forwarded.Host, "HBONE"
	}
	return info
}

// flag tells metrics why an arrival was not admitted.
func flag(err error) string {
	if errors.As(err, new(*deniedError)) {
		return telemetry.FlagDenied
	}
	return telemetry.FlagConnect
}
