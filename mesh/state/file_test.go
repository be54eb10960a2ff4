package state_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// example has every field of a local file.
const example = `# a mesh of two
workloads:
- uid: c1//Pod/shop/cart
  name: cart
  namespace: shop
  serviceAccount: cart
  workloadIps: [10.0.0.1, "fd00::1"]
  hostname: cart.example
  protocol: HBONE
  network: west
  node: n1
  trustDomain: td
  canonicalName: cart
  canonicalRevision: v1
  workloadName: cart
  workloadType: deployment
  clusterId: c1
  locality: {region: r, zone: z, subzone: s}
  status: Unhealthy
  networkMode: Standard
  nativeTunnel: true
  applicationTunnel: {protocol: PROXY, port: 15088}
  capacity: 3
  authorizationPolicies: [shop/deny]
  waypoint: {destination: west/10.0.0.9, hboneMtlsPort: 15008}
  networkGateway: {destination: istio-system/gateway.example, hboneMtlsPort: 15009}
  services:
    shop/cart.example: {80: 8080, 443: 8443}
- uid: plain
services:
- name: cart
  namespace: shop
  hostname: cart.example
  vips: [west/172.16.0.1, /fd00::2]
  cidrVips: [west/172.17.0.0/16, "/2001:2::/48"]
  ports: {80: 8080, 81: 0}
  subjectAltNames: [spiffe://td/ns/shop/sa/other, other.example]
  waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}
  loadBalancer: {routingPreferences: [Network, region], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: Dual
  canonical: true
  visibility: Namespace
policies:
- name: deny
  namespace: shop
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [{Exact: a}]
        notNamespaces: [{Prefix: b}]
        principals: [{Suffix: c}]
        notPrincipals: [{Presence: []}]
        sourceIps: [10.0.0.0/8]
        notSourceIps: [10.0.0.1]
        destinationIps: ["fd00::/8"]
        notDestinationIps: ["fd00::1"]
        destinationPorts: [80]
        notDestinationPorts: [81]
        serviceAccounts: [{namespace: n, serviceAccount: s}]
        notServiceAccounts: [{namespace: m, serviceAccount: t}]
`

func TestLocalFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := state.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	store := state.NewStore()
	apply(t, store, u)
	table := store.Load()

	w := table.Workload("c1//Pod/shop/cart")
	gateway, waypoint, tunnel := *w.NetworkGateway, *w.Waypoint, *w.AppTunnel
	w.NetworkGateway, w.Waypoint, w.AppTunnel = nil, nil, nil
	got := fmt.Sprint(*w, gateway, waypoint, tunnel)
	want := "{c1//Pod/shop/cart cart shop cart td west n1 cart.example cart v1 cart c1 deployment [10.0.0.1 fd00::1] HBONE true false false 3 {r z s} " +
		"spiffe://td/ns/shop/sa/cart <nil> <nil> <nil> [shop/deny] [{shop/cart.example [{80 8080 0} {443 8443 0}]}]} " +
		"{{ invalid IP} istio-system/gateway.example 15009} {{west 10.0.0.9} / 15008} {true 15088}"
	if got != want {
		t.Errorf("workload = %s\nwant       %s", got, want)
	}
	s := table.Service("shop", "cart.example")
	s.Waypoint = nil
	got = fmt.Sprint(*s)
	want = "{cart shop cart.example [{west 172.16.0.1} { fd00::2}] [{west 172.17.0.0/16} { 2001:2::/48}] [{80 8080 0} {81 0 0}] " +
		"[spiffe://td/ns/shop/sa/other] <nil> [] {2 [6 1] true} 3 true 1}"
	if got != want {
		t.Errorf("service = %s\nwant      %s", got, want)
	}
	got = fmt.Sprint(*table.Policy("shop", "deny"))
	want = "{shop deny 2 1 true [[[{[{0 a}] [{1 b}] [{2 c}] [{3 }] [10.0.0.0/8] [10.0.0.1/32] [fd00::/8] [fd00::1/128] [80] [81] [{n s}] [{m t}]}]]] <nil> shop/deny}"
	if got != want {
		t.Errorf("policy = %s\nwant     %s", got, want)
	}
	if svc := table.VIP("west", netip.MustParseAddr("172.17.3.4"), "shop"); svc != s {
		t.Errorf("an address of the range means %v", svc)
	}
}

func TestLocalFileErrorsNameTheLine(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"unknown field", "workloads:\n- uid: a\n  adress: 10.0.0.1\n", "line 3: field adress not found"},
		{"unknown list", "services: []\npods: []\n", "line 2: field pods not found"},
		{"unknown field within", "workloads:\n- uid: a\n  waypoint:\n    port: 1\n", "line 4: field port not found"},
		{"field given twice", "workloads:\n- uid: a\n  uid: b\n", "line 3"},
		{"wrong kind", "workloads:\n- uid: a\n  capacity: much\n", "line 3"},
		{"port out of range", "services:\n- hostname: a\n  ports: {70000: 1}\n", "line 3"},
		{"no uid", "workloads:\n- uid: a\n- name: b\n", "line 3: workloads"},
		{"bad address", "workloads:\n- uid: a\n- uid: b\n  workloadIps: [10.0.0]\n", "line 3: workloads b"},
		{"bad protocol", "workloads:\n- uid: a\n  protocol: QUIC\n", `line 2: workloads a: "QUIC" is none of`},
		{"forbidden protocol", "workloads:\n- uid: a\n  protocol: LEGACY_ISTIO_MTLS\n", "line 2: workloads a"},
		{"bad waypoint", "workloads:\n- uid: a\n  waypoint: {destination: x}\n", "want network/address or namespace/hostname"},
		{"bad service name", "workloads:\n- uid: a\n  services: {x: {80: 80}}\n", "line 2: workloads a"},
		{"twice", "workloads:\n- uid: a\n- uid: a\n", "line 3: workloads a: it is there twice"},
		{"bad vip", "services:\n- hostname: a\n  vips: [10.0.0.1]\n", "line 2: services /a"},
		{"bad range", "services:\n- hostname: a\n  cidrVips: [/10.0.0.1/33]\n", "line 2: services /a"},
		{"policy without action", "policies:\n- name: a\n  namespace: n\n  scope: Global\n", "line 2: policies policy n/a: a policy needs an action"},
		{"two tests", "policies:\n- {name: a, namespace: n, scope: Global, action: Deny, rules: [[[{principals: [{Exact: a, Prefix: b}]}]]]}\n", "needs one of Exact"},
		{"no test", "policies:\n- {name: a, namespace: n, scope: Global, action: Deny, rules: [[[{principals: [{}]}]]]}\n", "needs one of Exact"},
		{"bad prefix", "policies:\n- {name: a, namespace: n, scope: Global, action: Deny, rules: [[[{sourceIps: [10.0.0.0/40]}]]]}\n", "line 2"},
		{"two documents", "workloads: []\n---\nservices: []\n", "more than one YAML document"},
		{"no YAML", "workloads: [\n", "line"},
		{"a list", "- a\n", "line 1"},
		{"too long", strings.Repeat("#", 16<<20+1), "longer than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "local.yaml")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			u, err := state.ReadFile(path)
			if test.name == "too long" {
				_, err = state.Read([]byte(test.text))
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ReadFile = %+v, %v; want an error with %q", &u, err, test.want)
			}
		})
	}
	if _, err := state.ReadFile("/nonexistent/file"); err == nil || !strings.Contains(err.Error(), "/nonexistent/file") {
		t.Errorf("ReadFile of a missing file = %v", err)
	}
}

func TestEmptyLocalFile(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "workloads: []\n", "{}", "null"} {
		if u, err := state.Read([]byte(text)); err != nil || len(u.Addresses)+len(u.Policies) != 0 {
			t.Errorf("Read(%q) = %+v, %v; want nothing", text, &u, err)
		}
	}
}
