package outbound

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

const world = `
workloads:
- {uid: client, name: client, namespace: demo, serviceAccount: client, workloadIps: [10.0.0.1, "fd00::1"], protocol: HBONE, node: n1}
- {uid: server, name: server, namespace: demo, serviceAccount: server, workloadIps: [10.0.0.2, "fd00::2"], protocol: HBONE,
   services: {"demo/web.demo": {80: 8080}, "demo/trusted.demo": {80: 8080}, "demo/direct.demo": {80: 8080}, "demo/via.demo": {80: 8080}, "demo/weighted.demo": {80: 8080}}}
- {uid: plain, name: plain, namespace: demo, workloadIps: [10.0.0.3], protocol: TCP, services: {"demo/old.demo": {80: 8080}}}
- {uid: named, name: named, namespace: demo, hostname: api.example.com, protocol: TCP, services: {"demo/named.demo": {443: 443}}}
- {uid: guarded, name: guarded, namespace: demo, workloadIps: [10.0.0.4], protocol: HBONE, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}}
- {uid: far, name: far, namespace: demo, workloadIps: [10.0.0.5], network: other, protocol: HBONE, services: {"demo/far.demo": {80: 8080}},
   networkGateway: {destination: other/1.2.3.4, hboneMtlsPort: 15008}}
- {uid: stranger, name: stranger, namespace: demo, trustDomain: "no trust domain!", workloadIps: [10.0.0.6], protocol: HBONE}
services:
- {name: web, namespace: demo, hostname: web.demo, vips: [/10.1.0.1, "/fd01::1"], ports: {80: 8080}}
- {name: trusted, namespace: demo, hostname: trusted.demo, vips: [/10.1.0.2], ports: {80: 8080}, subjectAltNames: ["spiffe://cluster.local/ns/other/sa/also"]}
- {name: old, namespace: demo, hostname: old.demo, vips: [/10.1.0.3], ports: {80: 8080}}
- {name: named, namespace: demo, hostname: named.demo, vips: [/10.1.0.4], ports: {443: 443}}
- {name: via, namespace: demo, hostname: via.demo, vips: [/10.1.0.5], ports: {80: 8080}, waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15008}}
- {name: far, namespace: demo, hostname: far.demo, vips: [/10.1.0.6], ports: {80: 8080}}
- {name: empty, namespace: demo, hostname: empty.demo, vips: [/10.1.0.7], ports: {80: 8080}}
- {name: direct, namespace: demo, hostname: direct.demo, vips: [/10.1.0.8], ports: {80: 8080}, loadBalancer: {mode: Passthrough, routingPreferences: []}}
- {name: secret, namespace: other, hostname: secret.other, vips: [/10.1.0.9], ports: {80: 8080}, visibility: Namespace}
`

func table(t *testing.T) *state.Table {
	t.Helper()
	update, err := state.Read([]byte(world))
	if err != nil {
		t.Fatal(err)
	}
	store := state.NewStore()
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	return store.Load()
}

// show writes a route as one line.
func show(r route) string {
	if !r.Tunnel {
		return "plain " + r.Addr.String()
	}
	var ids []string
	for _, id := range r.Expected {
		ids = append(ids, id.Principal())
	}
	return "tunnel " + r.Addr.String() + " for " + r.Authority.String() + " as " + strings.Join(ids, ",")
}

func TestDecide(t *testing.T) {
	world := table(t)
	const server = "cluster.local/ns/demo/sa/server"
	for _, test := range []struct {
		name, to, want string
		err            error
	}{
		{"unknown address passes through", "192.0.2.1:443", "plain 192.0.2.1:443", nil},
		{"unknown IPv6 address passes through", "[2001:db8::1]:443", "plain [2001:db8::1]:443", nil},
		{"ztunnel's own ports elsewhere pass through", "192.0.2.1:15008", "plain 192.0.2.1:15008", nil},
		{"outbound port on loopback", "127.0.0.1:15001", "", errSelfCall},
		{"inbound port on loopback", "127.0.0.1:15006", "", errSelfCall},
		{"tunnel port on loopback", "[::1]:15008", "", errSelfCall},
		{"other ports on loopback", "127.0.0.1:8080", "plain 127.0.0.1:8080", nil},
		{"pod with a tunnel", "10.0.0.2:9000", "tunnel 10.0.0.2:15008 for 10.0.0.2:9000 as " + server, nil},
		{"pod with a tunnel by IPv6", "[fd00::2]:9000", "tunnel [fd00::2]:15008 for [fd00::2]:9000 as " + server, nil},
		{"oneself by address", "10.0.0.1:9000", "tunnel 10.0.0.1:15008 for 10.0.0.1:9000 as cluster.local/ns/demo/sa/client", nil},
		{"pod without a tunnel", "10.0.0.3:9000", "plain 10.0.0.3:9000", nil},
		{"service", "10.1.0.1:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as " + server, nil},
		{"service by IPv6", "[fd01::1]:80", "tunnel [fd00::2]:15008 for [fd00::2]:8080 as " + server, nil},
		{"service's other names are accepted too", "10.1.0.2:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as " + server + ",cluster.local/ns/other/sa/also", nil},
		{"service without tunnels", "10.1.0.3:80", "plain 10.0.0.3:8080", nil},
		{"service's port that isn't there", "10.1.0.1:81", "", balance.ErrNoEndpoint},
		{"service without endpoints", "10.1.0.7:80", "", balance.ErrNoEndpoint},
		{"service that passes through", "10.1.0.8:80", "plain 10.1.0.8:80", nil},
		{"service which the client may not see", "10.1.0.9:80", "plain 10.1.0.9:80", nil},
		{"service with a waypoint is never reached without", "10.1.0.5:80", "", errWaypoint},
		{"pod with a waypoint is never reached without", "10.0.0.4:80", "", errWaypoint},
		{"service in another network", "10.1.0.6:80", "", errRemoteNetwork},
		{"pod address of another network is unknown here", "10.0.0.5:80", "plain 10.0.0.5:80", nil},
		{"pod that can't prove who it is", "10.0.0.6:80", "tunnel 10.0.0.6:15008 for 10.0.0.6:80 as ", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := decide(world, world.Workload("client"), capture.OriginalDst{AddrPort: netip.MustParseAddrPort(test.to)})
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err == nil && show(r) != test.want {
				t.Errorf("got  %s\nwant %s", show(r), test.want)
			}
		})
	}
}

func TestNamedEndpointIsResolved(t *testing.T) {
	world := table(t)
	to := capture.OriginalDst{AddrPort: netip.MustParseAddrPort("10.1.0.4:443")}
	r, err := decide(world, world.Workload("client"), to)
	if err != nil || r.Addr.Addr().IsValid() || r.Tunnel {
		t.Fatalf("route %+v, %v; want one without address", r, err)
	}
	for _, test := range []struct {
		name  string
		addrs []string
		err   error
		want  string
	}{
		{"same family first", []string{"2001:db8::1", "192.0.2.1"}, nil, "plain 192.0.2.1:443"},
		{"mapped is the same family", []string{"::ffff:192.0.2.1"}, nil, "plain 192.0.2.1:443"},
		{"other family else", []string{"2001:db8::1"}, nil, "plain [2001:db8::1]:443"},
		{"none", nil, nil, "no address"},
		{"failure", nil, errors.New("server misbehaving"), "server misbehaving"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := New(Config{Resolve: resolver(t, test.addrs, test.err)})
			r, err := h.complete(t.Context(), r, to)
			switch {
			case err != nil && !strings.Contains(err.Error(), test.want):
				t.Errorf("error %v, want %q", err, test.want)
			case err == nil && show(r) != test.want:
				t.Errorf("got %s, want %s", show(r), test.want)
			}
		})
	}
}
