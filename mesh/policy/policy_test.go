package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/policy"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// mesh makes a table of the policies and one workload, which lists the names. What a store rejects as invalid it keeps.
func mesh(t testing.TB, listed []string, policies ...*security.Authorization) (*state.Table, *state.Workload) {
	t.Helper()
	store := state.NewStore()
	const uid = "Kubernetes//Pod/shop/cart-1"
	err := store.Apply(state.Update{
		Policies: policies,
		Addresses: []*workload.Address{{Type: &workload.Address_Workload{Workload: &workload.Workload{
			Uid: uid, Name: "cart-1", Namespace: "shop", ServiceAccount: "cart", Addresses: [][]byte{{10, 0, 1, 2}},
			AuthorizationPolicies: listed,
		}}}},
	})
	rejected, _ := err.(state.Rejected)
	if err != nil && (rejected == nil || rejected[uid] != nil) {
		t.Fatal(err)
	}
	table := store.Load()
	return table, table.Workload(uid)
}

func rules(matches ...*security.Match) *security.Rules { return &security.Rules{Matches: matches} }

func group(rules ...*security.Rules) *security.Group { return &security.Group{Rules: rules} }

func local(action security.Action, name string, groups ...*security.Group) *security.Authorization {
	return &security.Authorization{Name: name, Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: action, Groups: groups}
}

func allow(name string, groups ...*security.Group) *security.Authorization {
	return local(security.Action_ALLOW, name, groups...)
}

func deny(name string, groups ...*security.Group) *security.Authorization {
	return local(security.Action_DENY, name, groups...)
}

// one is a group of one rule of one match.
func one(m *security.Match) *security.Group { return group(rules(m)) }

func exact(values ...string) (list []*security.StringMatch) {
	for _, value := range values {
		list = append(list, &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: value}})
	}
	return list
}

func prefix(value string) []*security.StringMatch {
	return []*security.StringMatch{{MatchType: &security.StringMatch_Prefix{Prefix: value}}}
}

func suffix(value string) []*security.StringMatch {
	return []*security.StringMatch{{MatchType: &security.StringMatch_Suffix{Suffix: value}}}
}

func presence() []*security.StringMatch {
	return []*security.StringMatch{{MatchType: &security.StringMatch_Presence{Presence: &emptypb.Empty{}}}}
}

func cidr(t testing.TB, texts ...string) (list []*security.Address) {
	t.Helper()
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &security.Address{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())})
	}
	return list
}

func account(namespace, name string) []*security.ServiceAccountMatch {
	return []*security.ServiceAccountMatch{{Namespace: namespace, ServiceAccount: name}}
}

func id(t testing.TB, uri string) identity.Workload {
	t.Helper()
	parsed, err := identity.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// fromFrontend is a connection of an authenticated client, fromNobody the same in plain text.
func fromFrontend(t testing.TB) policy.Facts {
	facts := fromNobody()
	facts.Peer = id(t, "spiffe://cluster.local/ns/web/sa/frontend")
	return facts
}

func fromNobody() policy.Facts {
	return policy.Facts{Source: netip.MustParseAddrPort("10.0.0.1:43210"), Destination: netip.MustParseAddrPort("10.0.1.2:8080")}
}

// Each match alone, for a client with an identity and for one without.
func TestMatches(t *testing.T) {
	for _, test := range []struct {
		name                     string
		match                    *security.Match
		authenticated, plainText bool
	}{
		{"empty never", &security.Match{}, false, false},

		{"principal", &security.Match{Principals: exact("cluster.local/ns/web/sa/frontend")}, true, false},
		{"principal with scheme", &security.Match{Principals: exact("spiffe://cluster.local/ns/web/sa/frontend")}, false, false},
		{"another principal", &security.Match{Principals: exact("cluster.local/ns/web/sa/front")}, false, false},
		{"one of several principals", &security.Match{Principals: exact("a", "cluster.local/ns/web/sa/frontend")}, true, false},
		{"any principal", &security.Match{Principals: presence()}, true, false},
		{"principal prefix", &security.Match{Principals: prefix("cluster.local/ns/web")}, true, false},
		{"principal prefix over part of a name", &security.Match{Principals: prefix("cluster.local/ns/we")}, true, false},
		{"principal prefix that isn't one", &security.Match{Principals: prefix("/ns/web")}, false, false},
		{"principal suffix", &security.Match{Principals: suffix("/sa/frontend")}, true, false},
		{"principal suffix that isn't one", &security.Match{Principals: suffix("/sa/front")}, false, false},
		{"empty principal prefix", &security.Match{Principals: prefix("")}, true, false},
		{"empty principal", &security.Match{Principals: exact("")}, false, false},
		{"not the principal", &security.Match{NotPrincipals: exact("cluster.local/ns/web/sa/frontend")}, false, true},
		{"not another principal", &security.Match{NotPrincipals: exact("x")}, true, true},
		{"no principal: STRICT", &security.Match{NotPrincipals: presence()}, false, true},
		{"principal but not itself", &security.Match{Principals: presence(), NotPrincipals: suffix("frontend")}, false, false},

		{"namespace", &security.Match{Namespaces: exact("web")}, true, false},
		{"another namespace", &security.Match{Namespaces: exact("shop")}, false, false},
		{"any namespace", &security.Match{Namespaces: presence()}, true, false},
		{"namespace prefix", &security.Match{Namespaces: prefix("w")}, true, false},
		{"namespace suffix", &security.Match{Namespaces: suffix("b")}, true, false},
		{"empty namespace is that of plain text", &security.Match{Namespaces: exact("")}, false, true},
		{"empty namespace prefix", &security.Match{Namespaces: prefix("")}, true, true},
		{"not the namespace", &security.Match{NotNamespaces: exact("web")}, false, true},
		{"not any namespace", &security.Match{NotNamespaces: presence()}, false, true},

		{"account", &security.Match{ServiceAccounts: account("web", "frontend")}, true, false},
		{"account of another namespace", &security.Match{ServiceAccounts: account("shop", "frontend")}, false, false},
		{"another account", &security.Match{ServiceAccounts: account("web", "front")}, false, false},
		{"not the account", &security.Match{NotServiceAccounts: account("web", "frontend")}, false, true},
		{"not another account", &security.Match{NotServiceAccounts: account("web", "x")}, true, true},

		{"source", &security.Match{SourceIps: cidr(t, "10.0.0.1/32")}, true, true},
		{"source range", &security.Match{SourceIps: cidr(t, "192.168.0.0/16", "10.0.0.0/24")}, true, true},
		{"source range with host bits", &security.Match{SourceIps: cidr(t, "10.0.0.9/24")}, true, true},
		{"any IPv4 source", &security.Match{SourceIps: cidr(t, "0.0.0.0/0")}, true, true},
		{"any IPv6 source", &security.Match{SourceIps: cidr(t, "::/0")}, false, false},
		{"another source", &security.Match{SourceIps: cidr(t, "10.0.0.2/32")}, false, false},
		{"not the source", &security.Match{NotSourceIps: cidr(t, "10.0.0.0/8")}, false, false},
		{"not another source", &security.Match{NotSourceIps: cidr(t, "11.0.0.0/8")}, true, true},
		{"source but not one of them", &security.Match{SourceIps: cidr(t, "10.0.0.0/8"), NotSourceIps: cidr(t, "10.0.0.1/32")}, false, false},

		{"destination", &security.Match{DestinationIps: cidr(t, "10.0.1.2/32")}, true, true},
		{"another destination", &security.Match{DestinationIps: cidr(t, "10.0.0.1/32")}, false, false},
		{"not the destination", &security.Match{NotDestinationIps: cidr(t, "10.0.1.0/24")}, false, false},
		{"not another destination", &security.Match{NotDestinationIps: cidr(t, "10.0.2.0/24")}, true, true},

		{"port", &security.Match{DestinationPorts: []uint32{80, 8080}}, true, true},
		{"another port", &security.Match{DestinationPorts: []uint32{80, 43210}}, false, false},
		{"not the port", &security.Match{NotDestinationPorts: []uint32{8080}}, false, false},
		{"not another port", &security.Match{NotDestinationPorts: []uint32{80}}, true, true},

		{"two attributes", &security.Match{Namespaces: exact("web"), DestinationPorts: []uint32{8080}}, true, false},
		{"two attributes, one of which fails", &security.Match{Namespaces: exact("web"), DestinationPorts: []uint32{80}}, false, false},
		{"negatives only", &security.Match{NotNamespaces: exact("x"), NotDestinationPorts: []uint32{80}}, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, self := mesh(t, nil, deny("d", one(test.match)))
			for _, client := range []struct {
				name  string
				facts policy.Facts
				match bool
			}{{"authenticated", fromFrontend(t), test.authenticated}, {"plain text", fromNobody(), test.plainText}} {
				if v := policy.Evaluate(table, self, client.facts); v.Allowed == client.match {
					t.Errorf("%s: %+v, want a match %v", client.name, v, client.match)
				}
			}
		})
	}
}

func TestAddressesOfAllForms(t *testing.T) {
	for _, test := range []struct {
		ranges, addr string
		match        bool
	}{
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"10.0.0.0/8", "::ffff:11.1.2.3", false},
		{"10.0.0.0/8", "10.1.2.3", true},
		{"fd00::/8", "fd12::1", true},
		{"fd00::/8", "fe80::1", false},
		{"fe80::/10", "fe80::1%eth0", true},
		{"fd00::1/128", "fd00::1", true},
		{"fd00::1/128", "fd00::2", false},
		{"::/0", "10.1.2.3", false},
		{"0.0.0.0/0", "fd00::1", false},
	} {
		addr := netip.AddrPortFrom(netip.MustParseAddr(test.addr), 80)
		for name, m := range map[string]*security.Match{
			"source":      {SourceIps: cidr(t, test.ranges)},
			"destination": {DestinationIps: cidr(t, test.ranges)},
		} {
			table, self := mesh(t, nil, deny("d", one(m)))
			if v := policy.Evaluate(table, self, policy.Facts{Source: addr, Destination: addr}); v.Allowed == test.match {
				t.Errorf("%s %s in %s: %+v, want a match %v", name, test.addr, test.ranges, v, test.match)
			}
		}
	}
}

// How matches make a rule, rules a group, groups a policy.
func TestStructure(t *testing.T) {
	yes := &security.Match{Namespaces: exact("web")}
	no := &security.Match{Namespaces: exact("other")}
	empty := &security.Match{}
	for _, test := range []struct {
		name   string
		groups []*security.Group
		match  bool
	}{
		{"no group never", nil, false},
		{"group without rules always", []*security.Group{group()}, true},
		{"rule without matches always", []*security.Group{group(rules())}, true},
		{"rule of an empty match never", []*security.Group{group(rules(empty))}, false},
		{"one match of a rule suffices", []*security.Group{group(rules(no, empty, yes))}, true},
		{"all rules of a group are needed", []*security.Group{group(rules(yes), rules(no))}, false},
		{"all rules of a group hold", []*security.Group{group(rules(yes), rules(), rules(no, yes))}, true},
		{"an empty match spoils its group", []*security.Group{group(rules(yes), rules(empty))}, false},
		{"one group suffices", []*security.Group{group(rules(no)), group(rules(yes), rules(no)), group(rules(yes))}, true},
		{"no group holds", []*security.Group{group(rules(no)), group(rules(empty))}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, action := range []security.Action{security.Action_ALLOW, security.Action_DENY} {
				table, self := mesh(t, nil, local(action, "p", test.groups...))
				want := test.match == (action == security.Action_ALLOW)
				if v := policy.Evaluate(table, self, fromFrontend(t)); v.Allowed != want {
					t.Errorf("%v: %+v, want allowed %v", action, v, want)
				}
			}
		})
	}
}

// Which policies are for a workload, and how they are weighed.
func TestVerdicts(t *testing.T) {
	yes, no := one(&security.Match{Namespaces: exact("web")}), one(&security.Match{Namespaces: exact("other")})
	in := func(namespace string, scope security.Scope, p *security.Authorization) *security.Authorization {
		p.Namespace, p.Scope = namespace, scope
		return p
	}
	dry := func(p *security.Authorization) *security.Authorization {
		p.DryRun = true
		return p
	}
	broken := func(p *security.Authorization) *security.Authorization {
		p.Groups = append(p.Groups, one(&security.Match{SourceIps: []*security.Address{{Address: []byte{1, 2, 3}, Length: 24}}}))
		return p
	}
	none := "allow policies exist, but none allowed"
	for _, test := range []struct {
		name     string
		listed   []string
		policies []*security.Authorization
		allowed  bool
		policy   string
		reason   string
		dryRun   []string
	}{
		{"no policies", nil, nil, true, "", "", nil},
		{"allow that matches", nil, []*security.Authorization{allow("a", no), allow("b", yes)}, true, "shop/b", "", nil},
		{"allow that doesn't", nil, []*security.Authorization{allow("a", no)}, false, "", none, nil},
		{"allow nothing", nil, []*security.Authorization{allow("a")}, false, "", none, nil},
		{"deny that matches", nil, []*security.Authorization{deny("d", yes)}, false, "shop/d", "denied by policy shop/d", nil},
		{"deny that doesn't", nil, []*security.Authorization{deny("d", no)}, true, "", "", nil},
		{"deny before allow", nil, []*security.Authorization{allow("a", yes), deny("d", yes)}, false, "shop/d", "denied by policy shop/d", nil},
		{"deny that doesn't beside allow", nil, []*security.Authorization{allow("a", yes), deny("d", no)}, true, "shop/a", "", nil},
		{"deny that doesn't beside allow that doesn't", nil, []*security.Authorization{allow("a", no), deny("d", no)}, false, "", none, nil},

		{"mesh wide", nil, []*security.Authorization{in("", security.Scope_GLOBAL, deny("d", yes))}, false, "/d", "denied by policy /d", nil},
		{"mesh wide from the root namespace", nil, []*security.Authorization{in("istio-system", security.Scope_GLOBAL, deny("d", yes))},
			false, "istio-system/d", "denied by policy istio-system/d", nil},
		{"another namespace's", nil, []*security.Authorization{in("web", security.Scope_NAMESPACE, deny("d", yes))}, true, "", "", nil},
		{"listed", []string{"shop/d"}, []*security.Authorization{in("shop", security.Scope_WORKLOAD_SELECTOR, deny("d", yes))},
			false, "shop/d", "denied by policy shop/d", nil},
		{"not listed", nil, []*security.Authorization{in("shop", security.Scope_WORKLOAD_SELECTOR, deny("d", yes))}, true, "", "", nil},
		{"listed from another namespace", []string{"istio-system/istio_converted_static_strict"}, []*security.Authorization{
			in("istio-system", security.Scope_WORKLOAD_SELECTOR, deny("istio_converted_static_strict", yes))},
			false, "istio-system/istio_converted_static_strict", "denied by policy istio-system/istio_converted_static_strict", nil},
		{"allow of the mesh, of the namespace, of the workload", []string{"shop/c"}, []*security.Authorization{
			in("", security.Scope_GLOBAL, allow("a", no)), allow("b", no), in("shop", security.Scope_WORKLOAD_SELECTOR, allow("c", yes))},
			true, "shop/c", "", nil},

		{"listed but not known", []string{"shop/gone"}, nil, false, "shop/gone", "policy shop/gone is not known yet", nil},
		{"listed but not known beside an allow", []string{"shop/gone"}, []*security.Authorization{allow("a", yes)},
			false, "shop/gone", "policy shop/gone is not known yet", nil},
		{"listed but not known beside a deny", []string{"shop/gone"}, []*security.Authorization{deny("d", yes)},
			false, "shop/d", "denied by policy shop/d", nil},
		{"listed by a name that is none", []string{"gone"}, nil, false, "gone", "policy gone is not known yet", nil},

		{"invalid deny", nil, []*security.Authorization{broken(deny("d", no))}, false, "shop/d", "policy shop/d is invalid, so it denies: ", nil},
		{"invalid allow", nil, []*security.Authorization{broken(allow("a", yes))}, false, "", none, nil},
		{"invalid allow beside a valid one", nil, []*security.Authorization{broken(allow("a", yes)), allow("b", yes)}, true, "shop/b", "", nil},
		{"unknown kind of text", nil, []*security.Authorization{deny("d", one(&security.Match{Namespaces: []*security.StringMatch{{}}}))},
			false, "shop/d", "policy shop/d is invalid, so it denies: ", nil},
		{"unknown action", nil, []*security.Authorization{local(7, "x", no)}, false, "shop/x", "policy shop/x is invalid, so it denies: ", nil},

		{"dry-run deny", nil, []*security.Authorization{dry(deny("d", yes))}, true, "", "", []string{"shop/d"}},
		{"dry-run deny that doesn't match", nil, []*security.Authorization{dry(deny("d", no))}, true, "", "", nil},
		{"dry-run allow only", nil, []*security.Authorization{dry(allow("a", no))}, true, "", "", nil},
		{"dry-run allow that matches", nil, []*security.Authorization{dry(allow("a", yes)), allow("b", no)}, false, "", none, []string{"shop/a"}},
		{"dry-run deny beside an allow", nil, []*security.Authorization{allow("a", yes), dry(deny("d", yes))}, true, "shop/a", "", []string{"shop/d"}},
		{"dry-run deny beside a deny", nil, []*security.Authorization{deny("c", yes), dry(deny("d", yes))},
			false, "shop/c", "denied by policy shop/c", []string{"shop/d"}},
		{"invalid dry-run deny", nil, []*security.Authorization{dry(broken(deny("d", no)))}, false, "shop/d", "policy shop/d is invalid, so it denies: ", nil},
		{"invalid dry-run allow", nil, []*security.Authorization{dry(broken(allow("a", yes)))}, false, "", none, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, self := mesh(t, test.listed, test.policies...)
			v := policy.Evaluate(table, self, fromFrontend(t))
			if v.Allowed != test.allowed || v.Policy != test.policy || !slices.Equal(v.DryRun, test.dryRun) ||
				v.Pending != strings.HasSuffix(test.reason, "is not known yet") || !strings.HasPrefix(v.Reason, test.reason) || (v.Reason == "") != (test.reason == "") {
				t.Errorf("got %+v, want allowed %v, policy %q, reason %q, dry run %q",
					v, test.allowed, test.policy, test.reason, test.dryRun)
			}
		})
	}
}

// PeerAuthentication as a control plane translates it.
func TestStrictWithAnExceptedPort(t *testing.T) {
	strict := deny("strict", group(
		rules(&security.Match{NotDestinationPorts: []uint32{9090}}), rules(&security.Match{NotPrincipals: presence()})))
	table, self := mesh(t, nil, strict)
	for _, test := range []struct {
		facts   policy.Facts
		port    uint16
		allowed bool
	}{{fromFrontend(t), 8080, true}, {fromFrontend(t), 9090, true}, {fromNobody(), 8080, false}, {fromNobody(), 9090, true}} {
		test.facts.Destination = netip.AddrPortFrom(test.facts.Destination.Addr(), test.port)
		if v := policy.Evaluate(table, self, test.facts); v.Allowed != test.allowed {
			t.Errorf("peer %q to port %d: %+v, want allowed %v", test.facts.Peer, test.port, v, test.allowed)
		}
	}
}
