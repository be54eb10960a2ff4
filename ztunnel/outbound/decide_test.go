package outbound

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/identity"
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
	if len(w.Addresses) > 0 {
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

func TestDecide(t *testing.T) {
	world := tableOf(t, world)
	const (
		server   = "cluster.local/ns/demo/sa/server"
		waypoint = "cluster.local/ns/demo/sa/waypoint,cluster.local/ns/demo/sa/waypoint-too"
		lone     = "cluster.local/ns/demo/sa/lone"
		gateway  = "cluster.local/ns/demo/sa/gateway"
	)
	for _, test := range []struct {
		name, to, want string
		err            error
	}{
		{"unknown address passes through", "192.0.2.1:443", "passthrough 192.0.2.1:443", nil},
		{"unknown IPv6 address passes through", "[2001:db8::1]:443", "passthrough [2001:db8::1]:443", nil},
		{"ztunnel's own ports elsewhere pass through", "192.0.2.1:15008", "passthrough 192.0.2.1:15008", nil},
		{"outbound port on loopback", "127.0.0.1:15001", "", errSelfCall},
		{"inbound port on loopback", "127.0.0.1:15006", "", errSelfCall},
		{"tunnel port on loopback", "[::1]:15008", "", errSelfCall},
		{"other ports on loopback", "127.0.0.1:8080", "passthrough 127.0.0.1:8080", nil},

		{"pod with a tunnel", "10.0.0.2:9000", "direct 10.0.0.2:15008 for 10.0.0.2:9000 as " + server, nil},
		{"pod with a tunnel by IPv6", "[fd00::2]:9000", "direct [fd00::2]:15008 for [fd00::2]:9000 as " + server, nil},
		{"oneself by address", "10.0.0.1:9000", "direct 10.0.0.1:15008 for 10.0.0.1:9000 as cluster.local/ns/demo/sa/client", nil},
		{"pod without a tunnel", "10.0.0.3:9000", "plain 10.0.0.3:9000", nil},
		{"pod on the host's network has no address of its own", "10.0.0.7:80", "passthrough 10.0.0.7:80", nil},
		{"two workloads at one address, the pod is meant", "10.0.0.10:80", "direct 10.0.0.10:15008 for 10.0.0.10:80 as cluster.local/ns/demo/sa/twin", nil},
		{"pod address of another network is unknown here", "10.0.0.5:9000", "passthrough 10.0.0.5:9000", nil},
		{"pod that can't prove who it is", "10.0.0.6:80", "", errNoIdentity},

		{"service", "10.1.0.1:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"service by IPv6", "[fd01::1]:80", "direct [fd00::2]:15008 for [fd00::2]:8080 as " + server, nil},
		{"service's other names are accepted too", "10.1.0.2:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server + ",cluster.local/ns/other/sa/also", nil},
		{"service's names are enough for a pod without one", "10.1.0.22:80", "direct 10.0.0.6:15008 for 10.0.0.6:8080 as cluster.local/ns/demo/sa/known", nil},
		{"service without tunnels", "10.1.0.3:80", "plain 10.0.0.3:8080", nil},
		{"service's port that isn't there", "10.1.0.1:81", "", balance.ErrNoEndpoint},
		{"service without endpoints", "10.1.0.7:80", "", balance.ErrNoEndpoint},
		{"service with a named port", "10.1.0.19:80", "direct 10.0.0.2:15008 for 10.0.0.2:7070 as " + server, nil},
		{"service with a named port that no endpoint has", "10.1.0.19:81", "", balance.ErrNoEndpoint},
		{"service that passes through", "10.1.0.8:80", "passthrough 10.1.0.8:80", nil},
		{"service which the client may not see", "10.1.0.9:80", "passthrough 10.1.0.9:80", nil},
		{"service of IPv4 only, dialled by IPv6", "[fd01::11]:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"service of IPv6 only, dialled by IPv4", "10.1.0.12:80", "direct [fd00::2]:15008 for [fd00::2]:8080 as " + server, nil},
		{"service with a range", "10.9.9.9:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"range yields to a virtual address in it", "10.1.0.3:80", "plain 10.0.0.3:8080", nil},
		{"range yields to a pod in it", "10.0.0.3:80", "plain 10.0.0.3:80", nil},
		{"range of the client's namespace before a longer one", "10.2.3.4:80", "direct 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"range of another namespace if it is the only one that fits", "10.3.0.1:80", "direct 10.0.0.2:15008 for 10.0.0.2:9090 as " + server, nil},
		{"endpoint with a hostname", "10.1.0.4:443", "plain invalid AddrPort of api.example.com", nil},
		{"endpoint with a hostname and a tunnel", "10.1.0.17:443", "direct invalid AddrPort of vm.example.com for  as cluster.local/ns/demo/sa/named", nil},
		{"virtual address that is a pod's own, port of the service", "10.0.0.8:80", "direct 10.0.0.8:15008 for 10.0.0.8:8080 as cluster.local/ns/demo/sa/both", nil},
		{"virtual address that is a pod's own, another port", "10.0.0.8:9000", "direct 10.0.0.8:15008 for 10.0.0.8:9000 as cluster.local/ns/demo/sa/both", nil},

		{"waypoint of a service", "10.1.0.5:80", "waypoint 10.0.0.20:15018 for 10.1.0.5:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.5:80 as " + waypoint, nil},
		{"waypoint of a service, for a port that the service lacks", "10.1.0.5:81", "waypoint 10.0.0.20:15018 for 10.1.0.5:81 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.5:81 as " + waypoint, nil},
		{"waypoint of a service by IPv6, an instance may have IPv4 only", "[fd01::5]:80", "waypoint 10.0.0.20:15018 for [fd01::5]:80 as " + waypoint + " | waypoint [fd00::21]:15018 for [fd01::5]:80 as " + waypoint, nil},
		{"waypoint of a service that passes through", "10.1.0.10:80", "waypoint 10.0.0.20:15018 for 10.1.0.10:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.1.0.10:80 as " + waypoint, nil},
		{"waypoint that isn't there is not gone round", "10.1.0.14:80", "", errWaypoint},
		{"waypoint that can't prove who it is is not gone round", "10.1.0.16:80", "", errNoIdentity},
		{"waypoint behind a proxy needs no port of its own", "10.1.0.15:80", "waypoint 10.0.0.23:15008 for 10.1.0.15:80 as cluster.local/ns/demo/sa/sandwich", nil},
		{"waypoint of a virtual address that is a pod's own", "10.0.0.9:80", "waypoint 10.0.0.20:15018 for 10.0.0.9:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.9:80 as " + waypoint, nil},
		{"waypoint of a pod, by the service's hostname", "10.0.0.4:80", "waypoint 10.0.0.20:15018 for 10.0.0.4:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.4:80 as " + waypoint, nil},
		{"waypoint of a pod, by the service's address", "10.0.0.14:80", "waypoint 10.0.0.20:15018 for 10.0.0.14:80 as " + waypoint + " | waypoint 10.0.0.21:15018 for 10.0.0.14:80 as " + waypoint, nil},
		{"waypoint of a pod, by its own address", "10.0.0.15:80", "waypoint 10.0.0.22:15008 for 10.0.0.15:80 as " + lone, nil},
		{"waypoint of a pod, by its own hostname", "10.0.0.16:80", "waypoint 10.0.0.22:15008 for 10.0.0.16:80 as " + lone, nil},
		{"waypoint of a pod, to be resolved", "10.0.0.18:80", "waypoint invalid AddrPort of external.example for 10.0.0.18:80 as cluster.local/ns/demo/sa/external", nil},
		{"waypoint of a pod that isn't there", "10.0.0.17:80", "", errWaypoint},
		{"waypoint of a pod is not for its service", "10.1.0.13:80", "direct 10.0.0.4:15008 for 10.0.0.4:8080 as cluster.local/ns/demo/sa/default", nil},

		{"service in another network", "10.1.0.6:80", "double 1.2.3.4:15009 for far.demo:80 as " + gateway + " within for far.demo:80 as west/ns/demo/sa/far", nil},
		{"service in another network that names nobody to expect", "10.1.0.23:80", "", errNoIdentity},
		{"service in another network whose gateway is unknown", "10.1.0.24:80", "", errRemoteNetwork},
		{"service in another network without a gateway", "10.1.0.25:80", "", balance.ErrNoEndpoint},
		{"service in two other networks, one of whose gateways is unknown", "10.1.0.26:80", "double 1.2.3.4:15009 for two-ways.demo:80 as " + gateway + " within for two-ways.demo:80 as west/ns/demo/sa/far", nil},
		{"waypoint in another network, gateway by hostname", "10.1.0.18:80", "double 1.2.3.4:15010 for viafar.demo:80 as " + gateway + ",west/ns/demo/sa/gateway-too within for viafar.demo:80 as west/ns/demo/sa/far-waypoint", nil},
		{"waypoint in another network is for services only", "10.0.0.19:80", "", errWaypoint},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := outcomes(t, callTo(world, "client", test.to), test.err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestWaypointGoesOnByItself(t *testing.T) {
	world := tableOf(t, world)
	for _, test := range []struct{ name, from, to, want string }{
		{"to a pod, as endpoint of the waypoint's service", "wp1", "10.0.0.4:80", "direct 10.0.0.4:15008 for 10.0.0.4:80 as cluster.local/ns/demo/sa/default"},
		{"to a pod that names the service by address", "wp2", "10.0.0.14:80", "direct 10.0.0.14:15008 for 10.0.0.14:80 as cluster.local/ns/demo/sa/default"},
		{"to a pod that names the waypoint's own address", "lone", "10.0.0.15:80", "direct 10.0.0.15:15008 for 10.0.0.15:80 as cluster.local/ns/demo/sa/default"},
		{"to a pod that names the waypoint's own hostname", "lone", "10.0.0.16:80", "direct 10.0.0.16:15008 for 10.0.0.16:80 as cluster.local/ns/demo/sa/default"},
		{"to an endpoint at the service's own address", "wp1", "10.0.0.9:8080", "direct 10.0.0.9:15008 for 10.0.0.9:8080 as cluster.local/ns/demo/sa/both"},
		{"not to somebody else's pods", "lone", "10.0.0.4:80", "waypoint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := outcomes(t, callTo(world, test.from, test.to), nil)
			if test.want == "waypoint" && strings.HasPrefix(got, "waypoint ") {
				return
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	call := callTo(world, "wp1", "10.0.0.4:80")
	call.Client.AddrPort = netip.MustParseAddrPort("10.0.0.99:1")
	if got := outcomes(t, call, nil); !strings.HasPrefix(got, "waypoint ") {
		t.Errorf("a client with another address than the waypoint's gets %s", got)
	}
}

func TestWeightedWaypointsShareAService(t *testing.T) {
	weighted := func(weights ...uint32) *workload.Address {
		s := &workload.Service{
			Namespace: "demo", Hostname: "weighted.demo", Ports: []*workload.Port{{ServicePort: 80, TargetPort: 80}},
			Addresses: []*workload.NetworkAddress{{Address: netip.MustParseAddr("10.1.9.9").AsSlice()}},
			Waypoint:  &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: "nothing.demo"}}},
		}
		for i, name := range []string{"lone.example", "sandwich.demo"}[:len(weights)] {
			s.WeightedWaypoints = append(s.WeightedWaypoints, &workload.WeightedWaypoint{Weight: weights[i], Destination: &workload.GatewayAddress{
				HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: name}}}})
		}
		return &workload.Address{Type: &workload.Address_Service{Service: s}}
	}
	const first, second = "waypoint 10.0.0.22:15008 for 10.1.9.9:80 as cluster.local/ns/demo/sa/lone", "waypoint 10.0.0.23:15008 for 10.1.9.9:80 as cluster.local/ns/demo/sa/sandwich"
	for _, test := range []struct {
		name    string
		weights []uint32
		want    string
		err     error
	}{
		{"both", []uint32{1, 1}, first + " | " + second, nil},
		{"one has all", []uint32{0, 3}, second, nil},
		{"none has any, the plain one counts", []uint32{0, 0}, "", errWaypoint},
		{"none, the plain one counts", nil, "", errWaypoint},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := outcomes(t, callTo(tableOf(t, world, weighted(test.weights...)), "client", "10.1.9.9:80"), test.err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	world := tableOf(t, world)
	for to, want := range map[string]string{
		"10.1.0.14:80": "service demo/vialost.demo: waypoint demo/nothing.demo: its waypoint can't be reached, and traffic never goes round a waypoint: " +
			"see that the waypoint is deployed and ready, or take the label istio.io/use-waypoint away: no healthy upstream: gateway demo/nothing.demo is unknown",
		"10.1.0.24:80": "service demo/lost.demo: it is in another network, and the way there can't be taken: network \"north\": no healthy upstream: gateway north/1.2.3.5 is unknown",
		"10.1.0.7:80":  "service demo/empty.demo: no healthy upstream: none of the 0 endpoints of service demo/empty.demo can take port 80",
	} {
		if _, err := callTo(world, "client", to).Decide(); err == nil || err.Error() != want {
			t.Errorf("to %s:\ngot  %v\nwant %s", to, err, want)
		}
	}
}

const crowd = `
workloads:
- {uid: client, name: client, namespace: demo, workloadIps: [10.0.0.1], protocol: HBONE, node: n1}
- {uid: a, name: a, namespace: demo, workloadIps: [10.0.0.2], protocol: HBONE, node: n1, services: {"demo/near.demo": {80: 80}, "demo/few.demo": {80: 80}}}
- {uid: b, name: b, namespace: demo, workloadIps: [10.0.0.3], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}, "demo/few.demo": {80: 80}}}
- {uid: c, name: c, namespace: demo, workloadIps: [10.0.0.4], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}}}
- {uid: d, name: d, namespace: demo, workloadIps: [10.0.0.5], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}}}
- {uid: w, name: w, namespace: demo, workloadIps: [10.0.0.6], protocol: HBONE, services: {"demo/wp.demo": {15008: 15008}}}
- {uid: v, name: v, namespace: demo, workloadIps: [10.0.0.7], protocol: HBONE, services: {"demo/wp.demo": {15008: 15008}}}
- {uid: x, name: x, namespace: demo, workloadIps: [10.0.0.8], protocol: HBONE, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}}
- {uid: far, name: far, namespace: demo, network: west, protocol: HBONE, services: {"demo/far.demo": {80: 80}}, networkGateway: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {uid: g, name: g, namespace: demo, workloadIps: [1.2.3.4], network: west, protocol: HBONE, services: {"demo/gw.demo": {15008: 15008}}}
- {uid: h, name: h, namespace: demo, workloadIps: [1.2.3.5], network: west, protocol: HBONE, services: {"demo/gw.demo": {15008: 15008}}}
services:
- {name: near, namespace: demo, hostname: near.demo, vips: [/10.1.0.1], ports: {80: 80}, loadBalancer: {mode: Failover, routingPreferences: [Node]}}
- {name: few, namespace: demo, hostname: few.demo, vips: [/10.1.0.2], ports: {80: 80}}
- {name: wp, namespace: demo, hostname: wp.demo, vips: [], ports: {15008: 15008}}
- {name: via, namespace: demo, hostname: via.demo, vips: [/10.1.0.3], ports: {80: 80}, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}}
- {name: far, namespace: demo, hostname: far.demo, vips: [/10.1.0.4], ports: {80: 80}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: gw, namespace: demo, hostname: gw.demo, vips: [], ports: {15008: 15008}}
`

// TestNextEndpoint follows a connection whose endpoints all refuse.
func TestNextEndpoint(t *testing.T) {
	world := tableOf(t, crowd)
	for _, test := range []struct {
		name, to, want string // each attempt's possible workloads
	}{
		{"the nearest first, then others, three in all", "10.1.0.1:80", "a bcd bcd"},
		{"no more than there are", "10.1.0.2:80", "ab ab"},
		{"other instances of a service's waypoint, never round it", "10.1.0.3:80", "vw vw"},
		{"other instances of a pod's waypoint, never round it", "10.0.0.8:80", "vw vw"},
		{"other gateways of the network", "10.1.0.4:80", "gh gh"},
		{"no other than the pod that was dialled", "10.0.0.2:80", "a"},
		{"no other than the unknown address that was dialled", "192.0.2.1:80", "-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make([]map[string]bool, maxAttempts+1)
			for range 200 {
				call := callTo(world, "client", test.to)
				chosen := map[string]bool{}
				r, err := call.Decide()
				for i := 0; err == nil; i++ {
					uid := "-"
					if r.Workload != nil {
						uid = r.Workload.UID
					}
					if chosen[uid] {
						t.Fatalf("%s is tried twice", uid)
					}
					chosen[uid] = true
					if seen[i] == nil {
						seen[i] = map[string]bool{}
					}
					seen[i][uid] = true
					r, err = call.Next(&r)
				}
			}
			var got []string
			for _, uids := range seen {
				if uids != nil {
					got = append(got, strings.Join(slices.Sorted(maps.Keys(uids)), ""))
				}
			}
			if text := strings.Join(got, " "); text != test.want {
				t.Errorf("tried %s, want %s", text, test.want)
			}
		})
	}
}

func TestNextHeedsTheNewestState(t *testing.T) {
	old := tableOf(t, crowd)
	call := callTo(old, "client", "10.1.0.2:80")
	r, err := call.Decide()
	if err != nil {
		t.Fatal(err)
	}
	call.Table = tableOf(t, strings.Replace(crowd, "vips: [/10.1.0.2], ports: {80: 80}", "vips: [/10.1.0.2], ports: {80: 80}, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}", 1))
	if r, err = call.Next(&r); err != nil || r.Kind != Waypoint {
		t.Errorf("the service has a waypoint now, and the next route is %s, %v", show(r), err)
	}
}

func TestBusyEndpointsGetLess(t *testing.T) {
	world, open := tableOf(t, crowd), new(balance.Open)
	counts := map[string]int{}
	for range 100 {
		call := callTo(world, "client", "10.1.0.2:80")
		call.Open = open
		r, err := call.Decide()
		if err != nil {
			t.Fatal(err)
		}
		r.Count(open, 1)
		counts[r.Workload.UID]++
	}
	if counts["a"] < 40 || counts["b"] < 40 {
		t.Errorf("open connections %v, want them about equal", counts)
	}
	for uid, n := range counts {
		r := Route{Workload: world.Workload(uid)}
		r.Count(open, -n)
		if left := open.Count(r.Workload); left != 0 {
			t.Errorf("%d connections to %s are left", left, uid)
		}
	}
}

func TestIdentityOfAPeerIsNeverMissing(t *testing.T) {
	w := &state.Workload{UID: "w", Protocol: state.HBONE}
	if _, err := direct(w, nil, netip.MustParseAddrPort("10.0.0.1:80")); !errors.Is(err, errNoIdentity) {
		t.Errorf("a tunnel to nobody in particular: %v", err)
	}
	id, err := identity.New("cluster.local", "demo", "also")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := direct(w, &state.Service{SANs: []identity.Workload{id}}, netip.MustParseAddrPort("10.0.0.1:80")); err != nil || len(r.Expected) != 1 {
		t.Errorf("the service's names are %v, %v", r.Expected, err)
	}
}
