package inbound

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

const (
	guarded = "workloads:\n- {uid: server, name: server, namespace: demo, workloadIps: [10.0.0.2], authorizationPolicies: [demo/rule]}\n"
	free    = "workloads:\n- {uid: server, name: server, namespace: demo, workloadIps: [10.0.0.2]}\n"
	denies  = "policies:\n- {name: rule, namespace: demo, scope: WorkloadSelector, action: Deny, rules: [[[{destinationPorts: [8080]}]]]}\n"
	spares  = "policies:\n- {name: rule, namespace: demo, scope: WorkloadSelector, action: Deny, rules: [[[{destinationPorts: [9090]}]]]}\n"
)

func apply(t *testing.T, store *state.Store, text string) {
	t.Helper()
	update, err := state.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
}

// arriving is the judge of a connection to port 8080 of a pod that is said to have a policy nobody knows yet.
func arriving(t *testing.T) (*state.Store, *judge) {
	t.Helper()
	store := state.NewStore()
	apply(t, store, guarded)
	h := New(Config{Table: store.Load, Wait: store.Wait, Known: func(t *state.Table) *state.Workload { return t.Workload("server") }})
	to := netip.MustParseAddrPort("10.0.0.2:8080")
	j := &judge{handler: h, arrival: arrival{client: netip.MustParseAddrPort("10.0.0.3:5000"), target: target{AddrPort: to, dial: to}}}
	return store, j
}

func TestArrivalWaitsForAPolicyThatIsNotKnownYet(t *testing.T) {
	for _, test := range []struct {
		name, update string
		after        time.Duration
		allowed      bool
		takes        time.Duration
	}{
		{"it comes and denies", denies, time.Second, false, time.Second},
		{"it comes and spares", spares, time.Second, true, time.Second},
		{"the pod loses it", free, time.Second, true, time.Second},
		{"it comes too late", spares, time.Minute, false, pendingTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, j := arriving(t)
				defer time.AfterFunc(test.after, func() { apply(t, store, test.update) }).Stop()
				began := time.Now()
				verdict := j.settled(t.Context())
				if took := time.Since(began); verdict.Allowed != test.allowed || took != test.takes {
					t.Errorf("allowed %v (%s) after %s, want %v after %s", verdict.Allowed, verdict.Reason, took, test.allowed, test.takes)
				}
			})
		})
	}
}

// A control plane that restarts may take a policy back a moment before it says that the pod hasn't got it any more.
func TestLiveConnectionOutlivesAPolicyThatIsNotKnownYet(t *testing.T) {
	store, j := arriving(t)
	if err := j.recheck(); err != nil {
		t.Errorf("cut while the policy isn't known: %v", err)
	}
	apply(t, store, denies)
	if err := j.recheck(); err == nil {
		t.Error("the policy denies it, and it lives on")
	}
	if err := store.Apply(state.Update{RemovedPolicies: []string{"demo/rule"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.recheck(); err != nil {
		t.Errorf("cut while the policy isn't known any more: %v", err)
	}
}

// A pod may be taken back a moment before its connections end, and those are still no matter of everybody's.
func TestConnectionsOfAPodThatIsGoneStayUnderItsPolicies(t *testing.T) {
	store, j := arriving(t)
	apply(t, store, spares)
	if verdict := j.verdict(); !verdict.Allowed {
		t.Fatal(verdict.Reason)
	}
	if err := store.Apply(state.Update{RemovedAddresses: []string{"server"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.recheck(); err != nil {
		t.Errorf("cut although its policy spares it: %v", err)
	}
	apply(t, store, denies)
	if err := j.recheck(); err == nil {
		t.Error("the policy denies it, and it lives on")
	}
}
