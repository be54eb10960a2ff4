package state_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// FuzzAddress applies whatever decodes as an address twice and removes it: nothing may be left.
func FuzzAddress(f *testing.F) {
	for _, a := range []*workload.Address{
		pod("a", "10.0.0.1", behind("shop/web")), service("shop", "web", "172.16.0.1", ranges("10.0.0.0/8", "fd00::/64")), {},
	} {
		body, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		address := new(workload.Address)
		if proto.Unmarshal(body, address) != nil {
			return
		}
		store := state.NewStore()
		empty := describe(store.Load())
		u := state.Update{Addresses: []*workload.Address{address}}
		if store.Apply(u) != nil {
			if describe(store.Load()) != empty {
				t.Error("a rejected address left something")
			}
			return
		}
		once := describe(store.Load())
		apply(t, store, u)
		if describe(store.Load()) != once {
			t.Errorf("applied twice:\n%s\nonce:\n%s", describe(store.Load()), once)
		}
		name := address.GetWorkload().GetUid()
		if s := address.GetService(); s != nil {
			name = s.GetNamespace() + "/" + s.GetHostname()
		}
		apply(t, store, state.Update{RemovedAddresses: []string{name}})
		if got := describe(store.Load()); got != empty {
			t.Errorf("left after the removal of %q:\n%s", name, got)
		}
	})
}

// FuzzAdd takes resources as they come by xDS: what is taken has the resource's name, and goes by it; of an address that is
// refused nothing is left.
func FuzzAdd(f *testing.F) {
	for name, m := range map[string]proto.Message{
		"Kubernetes//Pod/shop/a": pod("a", "10.0.0.1", behind("shop/web")), "shop/web": service("shop", "web", "172.16.0.1", ranges("10.0.0.0/8")),
		"shop/p": policy("shop", "p", 1), "": &workload.Address{},
	} {
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, body)
	}
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		empty := describe(state.NewStore().Load())
		for _, typeURL := range []string{state.AddressType, state.AuthorizationType} {
			var u state.Update
			err := u.Add(typeURL, name, body)
			store := state.NewStore()
			apply(t, store, u)
			if left := describe(store.Load()); typeURL == state.AddressType && (left == empty) != (err != nil) {
				t.Errorf("Add = %v, but the table is\n%s", err, left)
			}
			var gone state.Update
			if err := gone.Remove(typeURL, name); err != nil {
				t.Fatal(err)
			}
			apply(t, store, gone)
			if left := describe(store.Load()); left != empty {
				t.Errorf("left after the removal of %q:\n%s", name, left)
			}
		}
	})
}

// FuzzAuthorization applies whatever decodes as a policy: it is kept, and if anything in it is not known, as invalid.
func FuzzAuthorization(f *testing.F) {
	for _, p := range []*security.Authorization{
		policy("shop", "p", 1), withUnknown(policy("shop", "p", 2)),
		{Namespace: "a", Name: "b", Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{{
			SourceIps: []*security.Address{{Address: ip("10.0.0.0"), Length: 8}}, DestinationPorts: []uint32{80, 70000},
			Principals: []*security.StringMatch{{MatchType: &security.StringMatch_Suffix{Suffix: "x"}}, {}},
		}}}}}}},
	} {
		body, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := new(security.Authorization)
		if proto.Unmarshal(body, p) != nil {
			return
		}
		store := state.NewStore()
		err := store.Apply(state.Update{Policies: []*security.Authorization{p}})
		kept := store.Load().Policy(p.GetNamespace(), p.GetName())
		switch {
		case kept == nil && p.GetName() != "" && !strings.Contains(p.GetNamespace(), "/"):
			t.Error("the policy was dropped")
		case kept != nil && (kept.Invalid == nil) != (err == nil):
			t.Errorf("Apply = %v but the policy is invalid because of %v", err, kept.Invalid)
		case kept != nil && kept.Invalid == nil && len(kept.Groups) != len(p.GetGroups()):
			t.Errorf("%d groups of %d are left", len(kept.Groups), len(p.GetGroups()))
		}
	})
}

// FuzzFile reads a local file: what is taken can be applied without a complaint.
func FuzzFile(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("workloads: [{uid: a, workloadIps: [10.0.0.1]}]"))
	f.Add([]byte("policies:\n- {name: p, namespace: n, action: Deny, scope: Global, rules: [[[{principals: [{Presence: []}]}]]]}\n"))
	f.Add([]byte("a: &a [*a]\nworkloads: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := state.Read(data)
		if err != nil {
			return
		}
		apply(t, state.NewStore(), u)
	})
}
