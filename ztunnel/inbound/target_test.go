package inbound

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
)

const world = `
workloads:
- {uid: server, name: server, namespace: demo, workloadIps: [10.0.0.2, "fd00::2"], protocol: HBONE,
   services: {"demo/web.demo": {80: 8080}, "demo/named.demo": {80: 9090}}}
- {uid: other, name: other, namespace: demo, workloadIps: [10.0.0.3], protocol: HBONE}
- {uid: gw, name: gw, namespace: demo, workloadIps: [10.0.0.9], protocol: HBONE, services: {"demo/gw.demo": {15008: 15008}}}
- {uid: byhost, name: byhost, namespace: demo, workloadIps: [10.0.0.4], protocol: HBONE, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {uid: byaddr, name: byaddr, namespace: demo, workloadIps: [10.0.0.5], protocol: HBONE, waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}}
- {uid: byvip, name: byvip, namespace: demo, workloadIps: [10.0.0.6], protocol: HBONE, waypoint: {destination: /10.1.0.9, hboneMtlsPort: 15008}}
- {uid: lost, name: lost, namespace: demo, workloadIps: [10.0.0.7], protocol: HBONE, waypoint: {destination: demo/nothing.demo, hboneMtlsPort: 15008}}
- {uid: tunnelled, name: tunnelled, namespace: demo, workloadIps: [10.0.0.8], protocol: HBONE, applicationTunnel: {protocol: PROXY, port: 15088}}
- {uid: tunnelled6, name: tunnelled6, namespace: demo, workloadIps: ["fd00::9"], protocol: HBONE, applicationTunnel: {protocol: PROXY}}
- {uid: renumbered, name: renumbered, namespace: demo, workloadIps: [10.0.0.10], protocol: HBONE, applicationTunnel: {protocol: NONE, port: 9999}}
- {uid: atvip, name: atvip, namespace: demo, workloadIps: [10.0.0.11], protocol: HBONE}
- {uid: inrange, name: inrange, namespace: demo, workloadIps: [10.5.0.1], protocol: HBONE}
- {uid: gwfar, name: gwfar, namespace: demo, workloadIps: [10.0.0.9], network: west, protocol: HBONE}
- {uid: byfar, name: byfar, namespace: demo, workloadIps: [10.0.0.12], protocol: HBONE, waypoint: {destination: west/10.0.0.9, hboneMtlsPort: 15008}}
- {uid: lonegw, name: lonegw, namespace: demo, workloadIps: [10.0.0.13, "fd00::13"], hostname: lone.example, protocol: HBONE}
- {uid: byname, name: byname, namespace: demo, workloadIps: [10.0.0.14], protocol: HBONE, waypoint: {destination: demo/lone.example, hboneMtlsPort: 15008}}
services:
- {name: atvip, namespace: demo, hostname: atvip.demo, vips: [/10.0.0.11], ports: {80: 80}, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {name: private, namespace: b, hostname: private.b, vips: [/10.1.0.30], ports: {80: 80}, visibility: Namespace, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {name: shared, namespace: demo, hostname: shared.demo, vips: [/10.1.0.31], ports: {80: 80}}
- {name: shared, namespace: b, hostname: shared.b, vips: [/10.1.0.31], ports: {80: 80}, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {name: range, namespace: demo, hostname: range.demo, vips: [], cidrVips: [/10.5.0.0/16], ports: {80: 80}, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {name: headless, namespace: demo, hostname: headless.demo, vips: [], ports: {80: 80}}
- {name: web, namespace: demo, hostname: web.demo, vips: [/10.1.0.1], ports: {80: 80}}
- {name: named, namespace: demo, hostname: named.demo, vips: [/10.1.0.2], ports: {80: 0, 81: 0, 82: 7070, 83: 15006}}
- {name: gw, namespace: demo, hostname: gw.demo, vips: [/10.1.0.9], ports: {15008: 15008}}
- {name: guarded, namespace: demo, hostname: guarded.demo, vips: [/10.1.0.3], ports: {80: 80}, waypoint: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {name: double, namespace: demo, hostname: both.example, vips: [/10.1.0.4], ports: {80: 1111}}
- {name: double, namespace: b, hostname: both.example, vips: [/10.1.0.5], ports: {80: 2222}}
- {name: twice, namespace: b, hostname: twice.example, vips: [/10.1.0.6], ports: {80: 3333}}
- {name: twice, namespace: c, hostname: twice.example, vips: [/10.1.0.7], ports: {80: 4444}, canonical: true}
`

func table(t *testing.T) *state.Table {
	t.Helper()
	update, err := state.Read([]byte(world))
	if err != nil {
		t.Fatal(err)
	}
	store := state.NewStore()
	update.Addresses = append(update.Addresses, weighted())
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	return store.Load()
}

// weighted is a service with several waypoints, which a local file can't describe.
func weighted() *workload.Address {
	s := &workload.Service{Namespace: "demo", Hostname: "weighted.demo", Addresses: []*workload.NetworkAddress{{Address: []byte{10, 1, 9, 9}}}}
	for i, host := range []string{"gw.demo", "lone.example"} {
		s.WeightedWaypoints = append(s.WeightedWaypoints, &workload.WeightedWaypoint{Weight: uint32(i), Destination: &workload.GatewayAddress{
			HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: host}}}})
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

// show writes a target as one line: what policies see, and what is dialled and announced if that is something else.
func show(to target) string {
	text := to.String()
	if to.proxied.IsValid() {
		text += " dial " + to.dial.String() + " as " + to.proxied.String()
	}
	return text
}

func TestValidateAndResolve(t *testing.T) {
	world := table(t)
	for _, test := range []struct {
		name, self, local, authority, want string
		err                                error
	}{
		{"own address", "server", "10.0.0.2", "10.0.0.2:8080", "10.0.0.2:8080", nil},
		{"own IPv6 address", "server", "fd00::2", "[fd00::2]:8080", "[fd00::2]:8080", nil},
		{"another pod's address", "server", "10.0.0.2", "10.0.0.3:8080", "", errMismatch},
		{"own address of the other family", "server", "10.0.0.2", "[fd00::2]:8080", "", errMismatch},
		{"unknown address", "server", "10.0.0.2", "192.0.2.1:8080", "", errMismatch},
		{"loopback", "server", "10.0.0.2", "127.0.0.1:8080", "", errMismatch},
		{"own service's address", "server", "10.0.0.2", "10.1.0.1:80", "", errMismatch},
		{"hostname, mapped by the endpoint", "server", "10.0.0.2", "web.demo:80", "10.0.0.2:8080", nil},
		{"hostname, named port", "server", "fd00::2", "named.demo:80", "[fd00::2]:9090", nil},
		{"hostname, port of the service", "server", "10.0.0.2", "named.demo:82", "10.0.0.2:7070", nil},
		{"hostname, named port without mapping", "server", "10.0.0.2", "named.demo:81", "", errNoPort},
		{"hostname, port that isn't there", "server", "10.0.0.2", "web.demo:99", "", errNoPort},
		{"hostname nobody knows", "server", "10.0.0.2", "nothing.demo:80", "", errNoPort},
		{"hostname of several, own namespace", "server", "10.0.0.2", "both.example:80", "10.0.0.2:1111", nil},
		{"hostname of several, canonical", "server", "10.0.0.2", "twice.example:80", "10.0.0.2:4444", nil},
		{"outbound port", "server", "10.0.0.2", "10.0.0.2:15001", "", errIllegalPort},
		{"plain-text port", "server", "10.0.0.2", "10.0.0.2:15006", "", errIllegalPort},
		{"tunnel port", "server", "10.0.0.2", "10.0.0.2:15008", "", errIllegalPort},
		{"illegal port by hostname", "server", "10.0.0.2", "named.demo:83", "", errIllegalPort},
		{"waypoint of a pod, by host", "gw", "10.0.0.9", "10.0.0.4:80", "10.0.0.9:80", nil},
		{"waypoint of a pod, by address", "gw", "10.0.0.9", "10.0.0.5:80", "10.0.0.9:80", nil},
		{"waypoint of a pod, by service address", "gw", "10.0.0.9", "10.0.0.6:80", "10.0.0.9:80", nil},
		{"waypoint of a service", "gw", "10.0.0.9", "10.1.0.3:80", "10.0.0.9:80", nil},
		{"waypoint of one of several of a service", "gw", "10.0.0.9", "10.1.9.9:80", "10.0.0.9:80", nil},
		{"waypoint of several, another one", "lonegw", "10.0.0.13", "10.1.9.9:80", "10.0.0.13:80", nil},
		{"waypoint of a service whose address is a pod's own", "gw", "10.0.0.9", "10.0.0.11:80", "10.0.0.9:80", nil},
		{"waypoint of a service that only its own namespace sees", "gw", "10.0.0.9", "10.1.0.30:80", "10.0.0.9:80", nil},
		{"waypoint of one of two services with one address", "gw", "10.0.0.9", "10.1.0.31:80", "10.0.0.9:80", nil},
		{"waypoint of a service with a range", "gw", "10.0.0.9", "10.5.0.2:80", "10.0.0.9:80", nil},
		{"waypoint of a range, but not of the pod in it", "gw", "10.0.0.9", "10.5.0.1:80", "", errMismatch},
		{"waypoint of a pod, by the waypoint's hostname", "lonegw", "10.0.0.13", "10.0.0.14:80", "10.0.0.13:80", nil},
		{"waypoint of a pod, at its other address", "lonegw", "fd00::13", "10.0.0.14:80", "[fd00::13]:80", nil},
		{"waypoint is one in another network with the same address", "gw", "10.0.0.9", "10.0.0.12:80", "", errMismatch},
		{"somebody else's waypoint", "server", "10.0.0.2", "10.0.0.4:80", "", errMismatch},
		{"somebody else's waypoint, by address", "server", "10.0.0.2", "10.0.0.5:80", "", errMismatch},
		{"waypoint that isn't there", "gw", "10.0.0.9", "10.0.0.7:80", "", errMismatch},
		{"application tunnel, any address", "tunnelled", "10.0.0.8", "192.0.2.1:80", "10.0.0.8:15088 dial 127.0.0.1:15088 as 192.0.2.1:80", nil},
		{"application tunnel, hostname", "tunnelled", "10.0.0.8", "web.demo:80", "10.0.0.8:15088 dial 127.0.0.1:15088 as 10.1.0.1:80", nil},
		{"application tunnel, hostname without address", "tunnelled", "10.0.0.8", "headless.demo:80", "", errNoVIP},
		{"application tunnel, hostname nobody knows", "tunnelled", "10.0.0.8", "nothing.demo:80", "", errNoPort},
		{"application tunnel by IPv6", "tunnelled", "fd00::8", "192.0.2.1:80", "[fd00::8]:15088 dial [::1]:15088 as 192.0.2.1:80", nil},
		{"application tunnel not on loopback", "tunnelled6", "fd00::9", "192.0.2.1:80", "[fd00::9]:80 dial [fd00::9]:80 as 192.0.2.1:80", nil},
		{"application tunnel without header", "renumbered", "10.0.0.10", "192.0.2.1:80", "10.0.0.10:9999", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			authority, err := hbone.ParseAuthority(test.authority)
			if err != nil {
				t.Fatal(err)
			}
			self, local := world.Workload(test.self), netip.MustParseAddr(test.local)
			h := New(Config{Loopback: test.self != "tunnelled6"})
			var to target
			if err = validate(world, self, local, authority); err == nil {
				to, err = h.resolve(world, self, local, authority)
			}
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if got := show(to); err == nil && got != test.want {
				t.Errorf("target %s, want %s", got, test.want)
			}
		})
	}
}

func TestServiceIsGuessed(t *testing.T) {
	world := table(t)
	for _, test := range []struct {
		name, forwarded string
		port            uint16
		want            string
	}{
		{"the client says it", "named.demo", 8080, "named.demo"},
		{"the client says somebody else's", "guarded.demo", 8080, "web.demo"},
		{"by the endpoint's port", "", 9090, "named.demo"},
		{"by the service's port", "", 7070, "named.demo"},
		{"nothing fits", "", 5432, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := arrival{self: world.Workload("server"), target: target{AddrPort: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), test.port)}}
			a.request.Forwarded.Host = test.forwarded
			var got string
			if svc := guessService(world, a); svc != nil {
				got = svc.Hostname
			}
			if got != test.want {
				t.Errorf("guessed %q, want %q", got, test.want)
			}
		})
	}
}

func TestSourceIsDescribedByTheControlPlaneFirst(t *testing.T) {
	store := state.NewStore()
	update, err := state.Read([]byte(world))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	h := New(Config{Table: store.Load})
	said := hbone.Baggage{Namespace: "said", WorkloadName: "said", Service: "said", Cluster: "said"}
	known := h.source(store.Load(), arrival{client: netip.MustParseAddrPort("10.0.0.3:1"), request: hbone.Request{Baggage: said}})
	if known.Pod != "other" || known.Namespace != "demo" || known.Workload != "said" {
		t.Errorf("known client: %+v, want demo/other with gaps filled by what it says", known)
	}
	unknown := h.source(store.Load(), arrival{client: netip.MustParseAddrPort("192.0.2.1:1"), request: hbone.Request{Baggage: said}})
	if unknown.Pod != "" || unknown.Namespace != "said" || unknown.Cluster != "said" {
		t.Errorf("unknown client: %+v, want what it says", unknown)
	}
}

// Of a client in another network we see a gateway's address, which may be anybody's here.
func TestSourceFromAnotherNetworkIsNotFoundByItsAddress(t *testing.T) {
	world := table(t)
	for _, test := range []struct{ own, told, pod, namespace string }{
		{"", "", "other", "demo"},
		{"west", "WEST", "gwfar", "demo"},
		{"", "west", "", "said"},
		{"west", "", "gwfar", "demo"},
	} {
		h := New(Config{Network: test.own})
		a := arrival{client: netip.MustParseAddrPort("10.0.0.3:1"), request: hbone.Request{Network: test.told, Baggage: hbone.Baggage{Namespace: "said"}}}
		if test.own == "west" {
			a.client = netip.MustParseAddrPort("10.0.0.9:1")
		}
		if got := h.source(world, a); got.Pod != test.pod || got.Namespace != test.namespace {
			t.Errorf("in network %q, told %q: %+v, want pod %q in %q", test.own, test.told, got, test.pod, test.namespace)
		}
	}
}
