package daemon

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/policy"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

// judgedPod is a pod with a connection that counts how often it was asked whether it may go on.
func judgedPod(t testing.TB, store *state.Store, asked *int) *pod {
	t.Helper()
	p := &pod{shared: shared{store: store}, info: enroll.Pod{Name: "a", Namespace: "shop", ServiceAccount: "default"}, registry: capture.NewRegistry(nil)}
	if _, err := p.registry.Add(capture.Facts{}, func() error { *asked++; return nil }); err != nil {
		t.Fatal(err)
	}
	return p
}

func authorization(namespace, name string, scope security.Scope) *security.Authorization {
	return &security.Authorization{Namespace: namespace, Name: name, Scope: scope, Action: security.Action_DENY}
}

func TestConnectionsAreAskedOnlyWhenWhatConcernsTheirPodChanges(t *testing.T) {
	pod := func(policies ...string) *workload.Address {
		return &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: "a", Name: "a", Namespace: "shop", AuthorizationPolicies: policies}}}
	}
	other := &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: "b", Name: "b", Namespace: "shop"}}}
	policies := func(list ...*security.Authorization) state.Update { return state.Update{Policies: list} }
	store, asked := state.NewStore(), 0
	p := judgedPod(t, store, &asked)
	for _, step := range []struct {
		name   string
		update state.Update
		asks   bool
	}{
		{"the pod was never known", state.Update{Addresses: []*workload.Address{other}}, true},
		{"the pod comes", state.Update{Addresses: []*workload.Address{pod()}}, true},
		{"somebody else changes", state.Update{Addresses: []*workload.Address{other}}, false},
		{"policy of another namespace", policies(authorization("x", "p", security.Scope_NAMESPACE)), false},
		{"policy that nobody lists", policies(authorization("shop", "chosen", security.Scope_WORKLOAD_SELECTOR)), false},
		{"policy of the mesh", policies(authorization("istio-system", "p", security.Scope_GLOBAL)), true},
		{"policy of the namespace", policies(authorization("shop", "p", security.Scope_NAMESPACE)), true},
		{"the pod lists policies", state.Update{Addresses: []*workload.Address{pod("shop/chosen", "shop/later")}}, true},
		{"a listed one comes", policies(authorization("shop", "later", security.Scope_WORKLOAD_SELECTOR)), true},
		{"a listed one changes", policies(authorization("shop", "chosen", security.Scope_WORKLOAD_SELECTOR)), true},
		{"the policy of the namespace goes", state.Update{RemovedPolicies: []string{"shop/p"}}, true},
		{"a policy of another namespace goes", state.Update{RemovedPolicies: []string{"x/p"}}, false},
		{"the pod goes", state.Update{RemovedAddresses: []string{"a"}}, false},
		{"somebody else changes then", state.Update{Addresses: []*workload.Address{other}}, false},
		{"a policy of the mesh goes then", state.Update{RemovedPolicies: []string{"istio-system/p"}}, true},
	} {
		if err := store.Apply(step.update); err != nil {
			t.Fatal(err)
		}
		asked = 0
		p.recheck(store.Load())
		if (asked > 0) != step.asks {
			t.Errorf("%s: connections asked: %v, want %v", step.name, asked > 0, step.asks)
		}
	}
}

// A pod that was made anew on another node, as one of a StatefulSet is, has the name of the one before.
func TestPodOfThatNameOnAnotherNodeIsAnotherOne(t *testing.T) {
	for _, test := range []struct {
		ours, its string
		known     bool
	}{{"n1", "n1", true}, {"n1", "n2", false}, {"n1", "", true}, {"", "n2", true}} {
		store := state.NewStore()
		it := &workload.Workload{Uid: "a", Name: "a", Namespace: "shop", Node: test.its}
		if err := store.Apply(state.Update{Addresses: []*workload.Address{{Type: &workload.Address_Workload{Workload: it}}}}); err != nil {
			t.Fatal(err)
		}
		p := &pod{shared: shared{cfg: config.Config{Node: test.ours}}, info: enroll.Pod{Name: "a", Namespace: "shop", ServiceAccount: "default"}}
		if known := p.known(store.Load()) != nil; known != test.known {
			t.Errorf("a pod of node %q, and one of that name on %q: taken for the same: %v, want %v", test.ours, test.its, known, test.known)
		}
	}
}

// A changed policy asks ten thousand connections of a pod, in a mesh with many policies.
func BenchmarkRecheck(b *testing.B) {
	store := state.NewStore()
	store.Prepare(policy.Prepare)
	u := state.Update{Addresses: []*workload.Address{{Type: &workload.Address_Workload{Workload: fakeistiod.WorldPod(0)}}}}
	for i := range 1000 {
		u.Policies = append(u.Policies, authorization("istio-system", fmt.Sprint(i), security.Scope_GLOBAL))
	}
	if err := store.Apply(u); err != nil {
		b.Fatal(err)
	}
	self := store.Load().Workload(fakeistiod.WorldPod(0).GetUid())
	p := &pod{shared: shared{store: store}, info: enroll.Pod{Name: self.Name, Namespace: self.Namespace, ServiceAccount: self.ServiceAccount}, registry: capture.NewRegistry(nil)}
	for range 10_000 {
		_, err := p.registry.Add(capture.Facts{}, func() error { policy.Evaluate(store.Load(), self, policy.Facts{}); return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, concerned := range []bool{true, false} {
		b.Run(fmt.Sprintf("concerned=%v", concerned), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if concerned {
					p.judged = judgement{}
				}
				p.recheck(store.Load())
			}
		})
	}
}
