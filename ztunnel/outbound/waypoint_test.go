package outbound

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

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
	call = callTo(world, "lone", "10.0.0.15:80")
	beside := *call.From
	beside.Identity = world.Workload("client").Identity
	call.From = &beside
	if got := outcomes(t, call, nil); !strings.HasPrefix(got, "waypoint ") {
		t.Errorf("a client that shares the waypoint's address, as on a host's network, but not its identity, gets %s", got)
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

// Whether an ingress gateway sends to a service's waypoint is for the gateway to decide, which dials pods if not.
func TestIngressGatewaysAreNoExceptionFromWaypoints(t *testing.T) {
	for _, use := range []bool{false, true} {
		s := &workload.Service{
			Namespace: "demo", Hostname: "site.demo", IngressUseWaypoint: use, Ports: []*workload.Port{{ServicePort: 80, TargetPort: 80}},
			Addresses: []*workload.NetworkAddress{{Address: []byte{10, 1, 9, 9}}},
			Waypoint: &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{
				Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: "lone.example"}}},
		}
		table := tableOf(t, world, &workload.Address{Type: &workload.Address_Service{Service: s}})
		if got := outcomes(t, callTo(table, "client", "10.1.9.9:80"), nil); !strings.HasPrefix(got, "waypoint ") {
			t.Errorf("ingress_use_waypoint %v: %s", use, got)
		}
	}
}

// randomMesh is a few workloads and services with waypoints of every kind: by hostname and address, of a service or a single
// workload, in another network, weighted, and not there at all.
func randomMesh(r *rand.Rand) []*workload.Address {
	one := func(options ...string) string { return options[r.IntN(len(options))] }
	gateway := func() *workload.GatewayAddress {
		switch r.IntN(5) {
		case 0:
			return &workload.GatewayAddress{HboneMtlsPort: 80, Destination: &workload.GatewayAddress_Address{
				Address: &workload.NetworkAddress{Network: one("", "", "west"), Address: []byte{10, byte(r.IntN(2)), 0, byte(r.IntN(6))}}}}
		case 1, 2:
			return &workload.GatewayAddress{HboneMtlsPort: 80, Destination: &workload.GatewayAddress_Hostname{
				Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: fmt.Sprint(one("s", "h"), r.IntN(6))}}}
		}
		return nil
	}
	var list []*workload.Address
	for i := range r.IntN(6) {
		s := &workload.Service{
			Namespace: "demo", Hostname: fmt.Sprint("s", i), Waypoint: gateway(), Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
			Addresses:       []*workload.NetworkAddress{{Address: []byte{10, byte(r.IntN(4) + 1), 0, byte(i)}}},
			SubjectAltNames: []string{"spiffe://cluster.local/ns/demo/sa/any"},
			LoadBalancing:   &workload.LoadBalancing{Mode: workload.LoadBalancing_Mode(r.IntN(4))},
			Visibility:      workload.ServiceVisibility(r.IntN(4) / 3),
		}
		if length := uint32(30); r.IntN(5) == 0 {
			s.Addresses[0].Length = &length
		}
		if r.IntN(5) == 0 {
			s.Addresses[0].Address[1] = 0 // a workload may have it as well
		}
		for range r.IntN(3) {
			if gw := gateway(); gw != nil {
				s.WeightedWaypoints = append(s.WeightedWaypoints, &workload.WeightedWaypoint{Destination: gw, Weight: uint32(r.IntN(2))})
			}
		}
		list = append(list, &workload.Address{Type: &workload.Address_Service{Service: s}})
	}
	for i := range r.IntN(6) {
		w := &workload.Workload{
			Uid: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), Namespace: "demo", Addresses: [][]byte{{10, 0, 0, byte(i)}}, Waypoint: gateway(),
			TunnelProtocol: workload.TunnelProtocol(r.IntN(2)), Hostname: one("", fmt.Sprint("h", i)), Network: one("", "", "", "west"),
			NetworkGateway: gateway(), Status: workload.WorkloadStatus(r.IntN(4) / 3), Services: map[string]*workload.PortList{},
		}
		for range r.IntN(4) {
			w.Services[fmt.Sprint("demo/s", r.IntN(6))] = &workload.PortList{}
		}
		list = append(list, &workload.Address{Type: &workload.Address_Workload{Workload: w}})
	}
	return list
}

// instances returns all workloads that a waypoint's reference can mean.
func instances(t *state.Table, gw *state.Gateway) (list []*state.Workload) {
	var services []*state.Service
	for _, svc := range t.Services() {
		at := slices.Contains(svc.VIPs, gw.Address) || slices.ContainsFunc(svc.CIDRs, func(p state.NetworkPrefix) bool {
			return p.Network == gw.Address.Network && gw.Address.Addr.IsValid() && p.Prefix.Contains(gw.Address.Addr)
		})
		if at || svc.Key() == gw.Host {
			services = append(services, svc)
		}
	}
	for _, w := range t.Workloads() {
		at := w.Network == gw.Address.Network && slices.Contains(w.Addresses, gw.Address.Addr) || w.Hostname != "" && w.Hostname == gw.Host.Name
		behind := slices.ContainsFunc(services, func(svc *state.Service) bool { _, ok := t.Endpoint(svc, w); return ok })
		if at || behind {
			list = append(list, w)
		}
	}
	return list
}

// named returns the waypoints of what has the address; all of them if it isn't clear what that is.
func named(t *state.Table, ip netip.Addr) (list []*state.Gateway) {
	w, svc := t.WorkloadAt("", ip), t.VIP("", ip, "demo")
	if w != nil && svc != nil && !slices.Contains(svc.VIPs, state.NetworkAddress{Addr: ip}) {
		svc = nil
	}
	if svc != nil {
		for i := range svc.WeightedWaypoints {
			if svc.WeightedWaypoints[i].Weight > 0 {
				list = append(list, &svc.WeightedWaypoints[i].Gateway)
			}
		}
		if len(list) == 0 && svc.Waypoint != nil {
			list = append(list, svc.Waypoint)
		}
	}
	if len(list) == 0 && w != nil && w.Waypoint != nil {
		list = append(list, w.Waypoint)
	}
	return list
}

// TestWaypointIsNeverBypassed makes calls to every address of random meshes, by a client that is no waypoint: whatever
// names a waypoint is reached through an instance of it or not at all, at the first attempt and at further ones.
func TestWaypointIsNeverBypassed(t *testing.T) {
	client := &state.Workload{UID: "client", Namespace: "demo", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}
	through, refused := 0, 0
	for seed := range uint64(3000) {
		mesh := randomMesh(rand.New(rand.NewPCG(seed, 1)))
		table := tableOf(t, "", mesh...)
		for second := range byte(5) {
			for last := range byte(6) {
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, second, 0, last}), 80)
				waypoints := named(table, to.Addr())
				if len(waypoints) == 0 {
					continue
				}
				call := callTo(table, "", to.String())
				call.From, call.Client.AddrPort = client, netip.AddrPortFrom(client.Addresses[0], 1)
				r, err := call.Decide()
				for ; err == nil; r, err = call.Next(&r) {
					at := r.Workload
					if r.Kind == Double {
						at = r.Remote
					}
					if r.Kind != Waypoint && r.Kind != Double || !slices.ContainsFunc(waypoints, func(gw *state.Gateway) bool { return slices.Contains(instances(table, gw), at) }) {
						t.Fatalf("seed %d: to %s: %s doesn't pass the waypoint %v; %v", seed, to, show(r), waypoints, mesh)
					}
					if len(r.Expected) == 0 || r.Kind == Waypoint && r.Authority.String() != to.String() {
						t.Fatalf("seed %d: to %s: %s", seed, to, show(r))
					}
					through++
				}
				if !strings.Contains(err.Error(), "waypoint") && err != errAlternative {
					t.Errorf("seed %d: to %s: error %v doesn't speak of the waypoint", seed, to, err)
				}
				refused++
			}
		}
	}
	if through < 1000 || refused < 1000 {
		t.Errorf("%d routes and %d refusals: the meshes are too much alike", through, refused)
	}
}
