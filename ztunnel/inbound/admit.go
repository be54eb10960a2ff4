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

// admit is step 4: it registers the arrival and asks the policies, in this order and about the newest state: whatever changes
// in between finds the arrival in the registry, or is heeded here.
func (f *flow) admit(ctx context.Context) {
	j := &judge{handler: f.handler, arrival: f.arrival}
	j.last.Store(f.self)
	entry, err := f.handler.cfg.Registry.Add(f.facts(), j.recheck)
	if err != nil {
		f.fail(err)
		return
	}
	f.entry = entry
	entry.OnCut(f.cut)
	verdict := j.verdict()
	if !verdict.Pending {
		f.judged(verdict)
		return
	}
	f.wait(ctx, func(ctx context.Context) error {
		verdict = j.settled(ctx)
		return nil
	}, func() { f.judged(verdict) })
}

// judged goes on as the policies say.
func (f *flow) judged(verdict policy.Verdict) {
	f.handler.log(f.arrival, verdict)
	if !verdict.Allowed {
		f.fail(&deniedError{reason: verdict.Reason})
		return
	}
	f.metric = f.handler.cfg.Metrics.Open(f.handler.describe(f.arrival))
	if !f.tunnel {
		f.handler.cfg.Metrics.Sockets(telemetry.Destination).Inc()
	}
	f.dialFor()
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
	return policy.Evaluate(table, self, j.arrival.policyFacts())
}

// settled waits for a verdict about all that the pod is said to have. Between the update of a pod and that of its policies they
// may not be there yet; what isn't known even after a wait may be a DENY.
func (j *judge) settled(ctx context.Context) (verdict policy.Verdict) {
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

func (a *arrival) policyFacts() policy.Facts {
	return policy.Facts{Peer: a.peer, Source: a.client, Destination: a.target.AddrPort}
}

func (a *arrival) facts() capture.Facts {
	facts := capture.Facts{Direction: capture.Inbound, Src: a.client, Host: a.request.Forwarded.Host, Next: a.target.AddrPort}
	if a.tunnel {
		facts.Tunnels = 1
	}
	return facts
}

// flag tells metrics why an arrival was not admitted.
func flag(err error) string {
	if errors.As(err, new(*deniedError)) {
		return telemetry.FlagDenied
	}
	return telemetry.FlagConnect
}
