package state_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func policy(namespace, name string, scope security.Scope) *security.Authorization {
	return &security.Authorization{Namespace: namespace, Name: name, Scope: scope}
}

// policiesFor returns all policies for a workload, and the names that it lists but that are not known.
func policiesFor(table *state.Table, w *state.Workload) (list []*state.Policy, missing []string) {
	global, namespace := table.PolicySets(w)
	list = slices.Concat(global.Policies(), namespace.Policies())
	for name, p := range table.ListedPolicies(w) {
		if p == nil {
			missing = append(missing, name)
		} else {
			list = append(list, p)
		}
	}
	return list, missing
}

func TestPoliciesForAWorkload(t *testing.T) {
	global := policy("istio-system", "global", security.Scope_GLOBAL)
	local := policy("shop", "local", security.Scope_NAMESPACE)
	other := policy("bank", "local", security.Scope_NAMESPACE)
	chosen := policy("shop", "chosen", security.Scope_WORKLOAD_SELECTOR)
	for _, test := range []struct {
		name     string
		policies []*security.Authorization
		listed   []string
		want     string
		missing  string
	}{
		{"none", nil, nil, "", ""},
		{"global only", []*security.Authorization{global, other}, nil, "istio-system/global", ""},
		{"namespace only", []*security.Authorization{local, other, chosen}, nil, "shop/local", ""},
		{"both", []*security.Authorization{local, global}, nil, "istio-system/global shop/local", ""},
		{"listed", []*security.Authorization{local, global, chosen}, []string{"shop/chosen"}, "istio-system/global shop/local shop/chosen", ""},
		{"listed twice", []*security.Authorization{local, chosen}, []string{"shop/chosen", "shop/local", "shop/chosen"}, "shop/local shop/chosen", ""},
		{"listed though it is for all", []*security.Authorization{local, global}, []string{"istio-system/global", "shop/local"}, "istio-system/global shop/local", ""},
		{"listed of another namespace", []*security.Authorization{other}, []string{"bank/local"}, "bank/local", ""},
		{"missing", []*security.Authorization{local}, []string{"shop/gone", "nonsense"}, "shop/local", "shop/gone nonsense"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := state.NewStore()
			apply(t, store, state.Update{
				Policies:  test.policies,
				Addresses: []*workload.Address{pod("a", "10.0.0.1", func(w *workload.Workload) { w.AuthorizationPolicies = test.listed })},
			})
			table := store.Load()
			list, missing := policiesFor(table, table.Workload("Kubernetes//Pod/shop/a"))
			var got []string
			for _, p := range list {
				got = append(got, p.Key().String())
			}
			if strings.Join(got, " ") != test.want || strings.Join(missing, " ") != test.missing {
				t.Errorf("policies %q, missing %q; want %q and %q", got, missing, test.want, test.missing)
			}
		})
	}
}

func TestPolicyMayChangeItsScopeAndGo(t *testing.T) {
	store := state.NewStore()
	for _, scope := range []security.Scope{0, 1, 2, 1, 0, 2} {
		apply(t, store, state.Update{Policies: []*security.Authorization{policy("shop", "p", scope)}})
		table := store.Load()
		list, _ := policiesFor(table, &state.Workload{Namespace: "shop"})
		elsewhere, _ := policiesFor(table, &state.Workload{Namespace: "bank"})
		want := map[security.Scope][2]int{0: {1, 1}, 1: {1, 0}, 2: {0, 0}}[scope]
		if len(list) != want[0] || len(elsewhere) != want[1] {
			t.Errorf("scope %s: %d and %d policies, want %v", scope, len(list), len(elsewhere), want)
		}
	}
	apply(t, store, state.Update{RemovedPolicies: []string{"shop/p", "shop/q", "nonsense"}})
	if table := store.Load(); table.Policy("shop", "p") != nil || len(table.Policies()) != 0 {
		t.Error("the policy is still there")
	}
}

func TestPolicyIsDecodedInFull(t *testing.T) {
	in := &security.Authorization{
		Namespace: "shop", Name: "p", Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_DENY, DryRun: true,
		Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{{
			Namespaces:        []*security.StringMatch{{MatchType: &security.StringMatch_Exact{Exact: "bank"}}},
			NotNamespaces:     []*security.StringMatch{{MatchType: &security.StringMatch_Prefix{Prefix: "b"}}},
			Principals:        []*security.StringMatch{{MatchType: &security.StringMatch_Suffix{Suffix: "/sa/x"}}},
			NotPrincipals:     []*security.StringMatch{{MatchType: &security.StringMatch_Presence{Presence: &emptypb.Empty{}}}},
			SourceIps:         []*security.Address{{Address: ip("10.1.2.3"), Length: 8}},
			NotSourceIps:      []*security.Address{{Address: ip("::ffff:10.1.2.3"), Length: 120}},
			DestinationIps:    []*security.Address{{Address: ip("fd00::1"), Length: 128}},
			NotDestinationIps: []*security.Address{{Address: ip("::"), Length: 0}},
			DestinationPorts:  []uint32{80}, NotDestinationPorts: []uint32{65535},
			ServiceAccounts:    []*security.ServiceAccountMatch{{Namespace: "n", ServiceAccount: "s"}},
			NotServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "m", ServiceAccount: "t"}},
		}}}, {}}}, {}},
	}
	store := state.NewStore()
	apply(t, store, state.Update{Policies: []*security.Authorization{in}})
	p := store.Load().Policy("shop", "p")
	got := fmt.Sprintf("%v", *p)
	want := "{shop p 2 1 true [[[{[{0 bank}] [{1 b}] [{2 /sa/x}] [{3 }] [10.0.0.0/8] [10.1.2.0/24] [fd00::1/128] [::/0] [80] [65535] [{n s}] [{m t}]}] []] []] <nil> shop/p}"
	if got != want {
		t.Errorf("policy = %s\nwant     %s", got, want)
	}
	if !slices.Equal(p.Groups[0][0][0].SourceIPs, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}) {
		t.Errorf("source range = %v, want it masked", p.Groups[0][0][0].SourceIPs)
	}
}

// withUnknown returns a message of the same kind with a field that nobody knows.
func withUnknown[M proto.Message](m M) M {
	raw := protowire.AppendTag(nil, 999, protowire.VarintType)
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(raw, 1))
	return m
}

func TestPolicyThatIsNotUnderstoodIsKeptAsInvalid(t *testing.T) {
	match := func(m *security.Match) *security.Authorization {
		return &security.Authorization{Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{m}}}}}}
	}
	for name, in := range map[string]*security.Authorization{
		"unknown field of the match":  match(withUnknown(&security.Match{DestinationPorts: []uint32{80}})),
		"unknown field of the string": match(&security.Match{Principals: []*security.StringMatch{withUnknown(&security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: "x"}})}}),
		"unknown field of presence":   match(&security.Match{Principals: []*security.StringMatch{{MatchType: &security.StringMatch_Presence{Presence: withUnknown(&emptypb.Empty{})}}}}),
		"unknown field of the rule":   {Groups: []*security.Group{{Rules: []*security.Rules{withUnknown(&security.Rules{})}}}},
		"unknown field of the group":  {Groups: []*security.Group{withUnknown(&security.Group{})}},
		"unknown field of the policy": withUnknown(&security.Authorization{}),
		"extension":                   {Extensions: []*security.Extension{{Name: "x"}}},
		"extension of the match":      match(&security.Match{Extensions: []*security.Extension{{Name: "x"}}}),
		"address of 3 bytes":          match(&security.Match{NotSourceIps: []*security.Address{{Address: []byte{1, 2, 3}}}}),
		"length out of range":         match(&security.Match{SourceIps: []*security.Address{{Address: ip("10.0.0.1"), Length: 33}}}),
		"huge length":                 match(&security.Match{SourceIps: []*security.Address{{Address: ip("10.0.0.1"), Length: 1 << 31}}}),
		"mapped range beyond IPv4":    match(&security.Match{SourceIps: []*security.Address{{Address: ip("::ffff:10.0.0.1"), Length: 64}}}),
		"port out of range":           match(&security.Match{NotDestinationPorts: []uint32{65536}}),
		"string without a test":       match(&security.Match{NotPrincipals: []*security.StringMatch{{}}}),
		"service account without one": match(&security.Match{NotServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "n"}}}),
		"unknown action":              {Action: 7},
		"unknown scope":               {Scope: 7},
	} {
		t.Run(name, func(t *testing.T) {
			in.Namespace, in.Name, in.DryRun = "shop", "p", true
			store := state.NewStore()
			err := store.Apply(state.Update{Policies: []*security.Authorization{in, policy("shop", "good", 0)}})
			var rejected state.Rejected
			if !errors.As(err, &rejected) || rejected["shop/p"] == nil || len(rejected) != 1 {
				t.Errorf("Apply = %v, want the policy to be reported", err)
			}
			table := store.Load()
			if p := table.Policy("shop", "p"); p == nil || p.Invalid == nil || p.DryRun {
				t.Errorf("policy = %v, want it kept as invalid and enforced", p)
			}
			if p := table.Policy("shop", "good"); p == nil || p.Invalid != nil {
				t.Errorf("the good policy = %v", p)
			}
		})
	}
}

func TestUnknownActionAndScopeAreTakenAsDenyingTheNamespace(t *testing.T) {
	store := state.NewStore()
	_ = store.Apply(state.Update{Policies: []*security.Authorization{{Namespace: "shop", Name: "p", Scope: 7, Action: 7}}})
	list, _ := policiesFor(store.Load(), &state.Workload{Namespace: "shop"})
	if len(list) != 1 || list[0].Action != state.Deny {
		t.Errorf("policies = %v, want one that denies", list)
	}
}

func TestPolicyWithoutNameIsRejected(t *testing.T) {
	store := state.NewStore()
	err := store.Apply(state.Update{Policies: []*security.Authorization{{Namespace: "shop"}}})
	if err == nil || len(store.Load().Policies()) != 0 {
		t.Errorf("Apply = %v with %d policies, want an error and none", err, len(store.Load().Policies()))
	}
}

func TestSetsOfPoliciesArePreparedBeforeTheyAreSeen(t *testing.T) {
	store, prepared := state.NewStore(), 0
	prepare := func(list []*state.Policy) any { prepared++; return len(list) }
	store.Prepare(prepare)
	apply(t, store, state.Update{Policies: []*security.Authorization{
		policy("istio-system", "a", security.Scope_GLOBAL), policy("istio-system", "b", security.Scope_GLOBAL), policy("shop", "p", security.Scope_NAMESPACE),
	}})
	if prepared != 2 {
		t.Errorf("%d sets prepared, want that of the mesh and that of the namespace", prepared)
	}
	global, namespace := store.Load().PolicySets(&state.Workload{Namespace: "shop"})
	if global.Prepared(prepare) != 2 || namespace.Prepared(prepare) != 1 || prepared != 2 {
		t.Errorf("prepared again for a reader")
	}
	apply(t, store, state.Update{Policies: []*security.Authorization{policy("bank", "p", security.Scope_NAMESPACE)}, RemovedPolicies: []string{"istio-system/a"}})
	now, same := store.Load().PolicySets(&state.Workload{Namespace: "shop"})
	if same != namespace || now == global || prepared != 4 || now.Prepared(prepare) != 1 {
		t.Errorf("after a change %d sets were prepared, want two more", prepared)
	}
}
