package outbound

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// world has pods at 10.0.0.*, virtual addresses at 10.1.0.*, and three waypoints at 10.0.0.2*. Its network is "".
const world = `
workloads:
- {uid: client, name: client, namespace: demo, serviceAccount: client, workloadIps: [10.0.0.1, "fd00::1"], protocol: HBONE, node: n1}
- {uid: server, name: server, namespace: demo, serviceAccount: server, workloadIps: [10.0.0.2, "fd00::2"], protocol: HBONE,
   services: {"demo/web.demo": {80: 8080}, "demo/trusted.demo": {80: 8080}, "demo/direct.demo": {80: 8080}, "demo/via.demo": {80: 8080}, "demo/viadirect.demo": {80: 8080}, "demo/only4.demo": {80: 8080}, "demo/only6.demo": {80: 8080}, "demo/named-port.demo": {80: 7070}, "demo/range.demo": {80: 8080}, "other/range.other": {80: 9090}}}
- {uid: plain, name: plain, namespace: demo, workloadIps: [10.0.0.3], protocol: TCP, services: {"demo/old.demo": {80: 8080}}}
- {uid: named, name: named, namespace: demo, hostname: api.example.com, protocol: TCP, services: {"demo/named.demo": {443: 8443}}}
- {uid: named-tunnel, name: named-tunnel, namespace: demo, serviceAccount: named, hostname: vm.example.com, protocol: HBONE, services: {"demo/vm.demo": {443: 8443}}}
- {uid: guarded, name: guarded, namespace: demo, workloadIps: [10.0.0.4], protocol: HBONE, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}, services: {"demo/unguarded.demo": {80: 8080}}}
- {uid: guarded-vip, name: guarded-vip, namespace: demo, workloadIps: [10.0.0.14], protocol: HBONE, waypoint: {destination: /10.1.0.20, hboneMtlsPort: 15008}}
- {uid: guarded-ip, name: guarded-ip, namespace: demo, workloadIps: [10.0.0.15], protocol: HBONE, waypoint: {destination: /10.0.0.22, hboneMtlsPort: 15008}}
- {uid: guarded-host, name: guarded-host, namespace: demo, workloadIps: [10.0.0.16], protocol: HBONE, waypoint: {destination: demo/lone.example, hboneMtlsPort: 15008}}
- {uid: guarded-lost, name: guarded-lost, namespace: demo, workloadIps: [10.0.0.17], protocol: HBONE, waypoint: {destination: demo/nothing.demo, hboneMtlsPort: 15008}}
- {uid: guarded-dns, name: guarded-dns, namespace: demo, workloadIps: [10.0.0.18], protocol: HBONE, waypoint: {destination: demo/external.example, hboneMtlsPort: 15018}}
- {uid: guarded-far, name: guarded-far, namespace: demo, workloadIps: [10.0.0.19], protocol: HBONE, waypoint: {destination: demo/far-waypoint.demo, hboneMtlsPort: 15008}}
- {uid: wp1, name: wp1, namespace: demo, serviceAccount: waypoint, workloadIps: [10.0.0.20], protocol: HBONE, services: {"demo/waypoint.demo": {15008: 15018}}}
- {uid: wp2, name: wp2, namespace: demo, serviceAccount: waypoint, workloadIps: [10.0.0.21, "fd00::21"], protocol: HBONE, services: {"demo/waypoint.demo": {15008: 15018}}}
- {uid: lone, name: lone, namespace: demo, serviceAccount: lone, workloadIps: [10.0.0.22], hostname: lone.example, protocol: TCP}
- {uid: external, name: external, namespace: demo, serviceAccount: external, hostname: external.example, protocol: HBONE}
- {uid: sandwich, name: sandwich, namespace: demo, serviceAccount: sandwich, workloadIps: [10.0.0.23], protocol: HBONE, applicationTunnel: {protocol: PROXY, port: 15088}, services: {"demo/sandwich.demo": {}}}
- {uid: far, name: far, namespace: demo, serviceAccount: far, workloadIps: [10.0.0.5], network: west, protocol: HBONE, services: {"demo/far.demo": {80: 8080}, "demo/far-nameless.demo": {80: 8080}},
   networkGateway: {destination: west/1.2.3.4, hboneMtlsPort: 15009}}
- {uid: far-wp, name: far-wp, namespace: demo, serviceAccount: far-waypoint, network: west, protocol: HBONE, services: {"demo/far-waypoint.demo": {15008: 15008}},
   networkGateway: {destination: demo/gateway.west, hboneMtlsPort: 15009}}
- {uid: lost, name: lost, namespace: demo, network: north, protocol: HBONE, services: {"demo/lost.demo": {80: 8080}, "demo/two-ways.demo": {80: 8080}}, networkGateway: {destination: north/1.2.3.5, hboneMtlsPort: 15009}}
- {uid: no-way, name: no-way, namespace: demo, network: south, protocol: HBONE, services: {"demo/no-way.demo": {80: 8080}}}
- {uid: far-too, name: far-too, namespace: demo, serviceAccount: far, network: west, protocol: HBONE, services: {"demo/two-ways.demo": {80: 8080}}, networkGateway: {destination: west/1.2.3.4, hboneMtlsPort: 15009}}
- {uid: gw, name: gw, namespace: demo, serviceAccount: gateway, workloadIps: [1.2.3.4], network: west, protocol: HBONE, services: {"demo/gateway.west": {15009: 15010}}}
- {uid: stranger, name: stranger, namespace: demo, trustDomain: "no trust domain!", workloadIps: [10.0.0.6], protocol: HBONE, services: {"demo/known.demo": {80: 8080}, "demo/bad-waypoint.demo": {15008: 15008}}}
- {uid: host, name: host, namespace: demo, workloadIps: [10.0.0.7], protocol: HBONE, networkMode: HostNetwork}
- {uid: both, name: both, namespace: demo, serviceAccount: both, workloadIps: [10.0.0.8], protocol: HBONE, services: {"demo/both.demo": {80: 8080}}}
- {uid: both-via, name: both-via, namespace: demo, serviceAccount: both, workloadIps: [10.0.0.9], protocol: HBONE, services: {"demo/both-via.demo": {80: 8080}}}
- {uid: neighbour, name: neighbour, namespace: demo, serviceAccount: neighbour, workloadIps: [10.0.0.11], protocol: HBONE, node: n1, services: {"demo/here.demo": {80: 8080}}}
- {uid: neighbour-plain, name: neighbour-plain, namespace: demo, workloadIps: [10.0.0.12], protocol: TCP, node: n1}
- {uid: sick, name: sick, namespace: demo, workloadIps: [10.0.0.13], protocol: HBONE, status: Unhealthy, services: {"demo/over.demo": {80: 8080}}}
- {uid: over, name: over, namespace: demo, serviceAccount: far, network: west, protocol: HBONE, services: {"demo/over.demo": {80: 8080}, "demo/here.demo": {80: 8080}}, networkGateway: {destination: west/1.2.3.4, hboneMtlsPort: 15009}}
- {uid: "c//Pod/demo/twin", name: twin, namespace: demo, serviceAccount: twin, workloadIps: [10.0.0.10], protocol: HBONE}
- {uid: "c/entry/demo/twin", name: twin, namespace: demo, serviceAccount: entry, workloadIps: [10.0.0.10], protocol: HBONE}
services:
- {name: web, namespace: demo, hostname: web.demo, vips: [/10.1.0.1, "/fd01::1"], ports: {80: 8080}}
- {name: trusted, namespace: demo, hostname: trusted.demo, vips: [/10.1.0.2], ports: {80: 8080}, subjectAltNames: ["spiffe://cluster.local/ns/other/sa/also"]}
- {name: old, namespace: demo, hostname: old.demo, vips: [/10.1.0.3], ports: {80: 8080}}
- {name: named, namespace: demo, hostname: named.demo, vips: [/10.1.0.4], ports: {443: 443}}
- {name: via, namespace: demo, hostname: via.demo, vips: [/10.1.0.5, "/fd01::5"], ports: {80: 8080}, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}}
- {name: far, namespace: demo, hostname: far.demo, vips: [/10.1.0.6], ports: {80: 8080}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: empty, namespace: demo, hostname: empty.demo, vips: [/10.1.0.7], ports: {80: 8080}}
- {name: direct, namespace: demo, hostname: direct.demo, vips: [/10.1.0.8], ports: {80: 8080}, loadBalancer: {mode: Passthrough, routingPreferences: []}}
- {name: secret, namespace: other, hostname: secret.other, vips: [/10.1.0.9], ports: {80: 8080}, visibility: Namespace}
- {name: viadirect, namespace: demo, hostname: viadirect.demo, vips: [/10.1.0.10], ports: {80: 8080}, loadBalancer: {mode: Passthrough}, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}}
- {name: only4, namespace: demo, hostname: only4.demo, vips: ["/fd01::11"], ports: {80: 8080}, ipFamilies: IPv4}
- {name: only6, namespace: demo, hostname: only6.demo, vips: [/10.1.0.12], ports: {80: 8080}, ipFamilies: IPv6}
- {name: unguarded, namespace: demo, hostname: unguarded.demo, vips: [/10.1.0.13], ports: {80: 8080}}
- {name: vialost, namespace: demo, hostname: vialost.demo, vips: [/10.1.0.14], ports: {80: 8080}, waypoint: {destination: demo/nothing.demo, hboneMtlsPort: 15008}}
- {name: viasandwich, namespace: demo, hostname: viasandwich.demo, vips: [/10.1.0.15], ports: {80: 8080}, waypoint: {destination: demo/sandwich.demo, hboneMtlsPort: 15008}}
- {name: viabad, namespace: demo, hostname: viabad.demo, vips: [/10.1.0.16], ports: {80: 8080}, waypoint: {destination: demo/bad-waypoint.demo, hboneMtlsPort: 15008}}
- {name: vm, namespace: demo, hostname: vm.demo, vips: [/10.1.0.17], ports: {443: 443}}
- {name: viafar, namespace: demo, hostname: viafar.demo, vips: [/10.1.0.18], ports: {80: 8080}, waypoint: {destination: demo/far-waypoint.demo, hboneMtlsPort: 15008}}
- {name: named-port, namespace: demo, hostname: named-port.demo, vips: [/10.1.0.19], ports: {80: 0, 81: 0}}
- {name: waypoint, namespace: demo, hostname: waypoint.demo, vips: [/10.1.0.20], ports: {15008: 15008}, subjectAltNames: ["spiffe://cluster.local/ns/demo/sa/waypoint-too"]}
- {name: sandwich, namespace: demo, hostname: sandwich.demo, vips: [/10.1.0.21], ports: {80: 80}}
- {name: bad-waypoint, namespace: demo, hostname: bad-waypoint.demo, vips: [], ports: {15008: 15008}}
- {name: far-waypoint, namespace: demo, hostname: far-waypoint.demo, vips: [], ports: {15008: 15008}, subjectAltNames: ["spiffe://west/ns/demo/sa/far-waypoint"]}
- {name: gateway, namespace: demo, hostname: gateway.west, vips: [], ports: {15009: 15010}, subjectAltNames: ["spiffe://west/ns/demo/sa/gateway-too"]}
- {name: known, namespace: demo, hostname: known.demo, vips: [/10.1.0.22], ports: {80: 8080}, subjectAltNames: ["spiffe://cluster.local/ns/demo/sa/known"]}
- {name: far-nameless, namespace: demo, hostname: far-nameless.demo, vips: [/10.1.0.23], ports: {80: 8080}}
- {name: lost, namespace: demo, hostname: lost.demo, vips: [/10.1.0.24], ports: {80: 8080}, subjectAltNames: ["spiffe://north/ns/demo/sa/lost"]}
- {name: no-way, namespace: demo, hostname: no-way.demo, vips: [/10.1.0.25], ports: {80: 8080}}
- {name: two-ways, namespace: demo, hostname: two-ways.demo, vips: [/10.1.0.26], ports: {80: 8080}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: both, namespace: demo, hostname: both.demo, vips: [/10.0.0.8], ports: {80: 8080}}
- {name: both-via, namespace: demo, hostname: both-via.demo, vips: [/10.0.0.9], ports: {80: 8080}, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}}
- {name: here, namespace: demo, hostname: here.demo, vips: [/10.1.0.27], ports: {80: 8080}, loadBalancer: {mode: Failover, routingPreferences: [Network, Region]}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: over, namespace: demo, hostname: over.demo, vips: [/10.1.0.28], ports: {80: 8080}, loadBalancer: {mode: Failover, routingPreferences: [Network, Region]}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: range, namespace: demo, hostname: range.demo, vips: [], cidrVips: [/10.9.0.0/16, /10.2.0.0/16, /10.0.0.2/31, /10.1.0.2/31, /10.0.0.22/31], ports: {80: 8080}}
- {name: range, namespace: other, hostname: range.other, vips: [], cidrVips: [/10.2.3.0/24, /10.3.0.0/16], ports: {80: 8080}}
`

// tableOf reads a local file, and adds what only the control plane's messages can say.
func tableOf(t testing.TB, text string, more ...*workload.Address) *state.Table {
	t.Helper()
	update, err := state.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	update.Addresses = append(update.Addresses, more...)
	store := state.NewStore()
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	return store.Load()
}

// show writes a route as one line.
func show(r Route) string {
	hop := func(h Hop) string {
		ids := make([]string, len(h.Expected))
		for i, id := range h.Expected {
			ids[i] = id.Principal()
		}
		return " for " + h.Authority.String() + " as " + strings.Join(ids, ",")
	}
	text := [...]string{"passthrough ", "plain ", "direct ", "waypoint ", "double "}[r.Kind] + r.Addr.String()
	if r.Host != "" {
		text += " of " + r.Host
	}
	if r.Kind.Tunnelled() {
		text += hop(r.Hop)
	}
	if r.Inner != nil {
		text += " within" + hop(*r.Inner)
	}
	return text
}

func callTo(t *state.Table, from, to string) *Call {
	w := t.Workload(from)
	call := &Call{Table: t, From: w, To: capture.OriginalDst{AddrPort: netip.MustParseAddrPort(to)}}
	if w != nil && len(w.Addresses) > 0 {
		call.Client.AddrPort = netip.AddrPortFrom(w.Addresses[0], 40000)
	}
	return call
}

// outcomes decides often and returns all the routes that can come out. Every error must be the one that is wanted.
func outcomes(t *testing.T, call *Call, want error) string {
	t.Helper()
	seen := map[string]bool{}
	for range 100 {
		r, err := call.Decide()
		if !errors.Is(err, want) {
			t.Fatalf("error %v, want %v", err, want)
		}
		if err == nil {
			seen[show(r)] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " | ")
}
