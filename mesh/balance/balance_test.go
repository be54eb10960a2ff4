package balance_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

var (
	v4 = netip.MustParseAddr("172.16.0.1")
	v6 = netip.MustParseAddr("fd00:16::1")
)

type (
	editWorkload = func(*workload.Workload)
	editService  = func(*workload.Service)
)

// pod returns an endpoint of shop/web with port 80 on 8080, changed by the edits.
func pod(name, address string, edits ...editWorkload) *workload.Address {
	w := &workload.Workload{Uid: name, Name: name, Namespace: "shop"}
	if address != "" {
		w.Addresses = [][]byte{netip.MustParseAddr(address).AsSlice()}
	}
	ports(80, 8080)(w)
	for _, edit := range edits {
		edit(w)
	}
	return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
}

// web returns the service shop/web with port 80 on 8080, changed by the edits.
func web(edits ...editService) *workload.Address {
	s := &workload.Service{Namespace: "shop", Hostname: "web", Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}
	s.Addresses = []*workload.NetworkAddress{{Address: v4.AsSlice()}}
	for _, edit := range edits {
		edit(s)
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

// ports are the endpoint's, in pairs; none if it has none.
func ports(pairs ...uint32) editWorkload {
	return func(w *workload.Workload) {
		list := new(workload.PortList)
		for i := 0; i < len(pairs); i += 2 {
			list.Ports = append(list.Ports, &workload.Port{ServicePort: pairs[i], TargetPort: pairs[i+1]})
		}
		w.Services = map[string]*workload.PortList{"shop/web": list}
	}
}

func in(region, zone, node string) editWorkload {
	return func(w *workload.Workload) {
		w.Locality, w.Node = &workload.Locality{Region: region, Zone: zone}, node
	}
}

func network(name string, gateway bool) editWorkload {
	return func(w *workload.Workload) {
		if w.Network = name; gateway {
			w.NetworkGateway = address("", "10.9.9.9", 15009)
		}
	}
}

func address(network, ip string, port uint32) *workload.GatewayAddress {
	return &workload.GatewayAddress{HboneMtlsPort: port, Destination: &workload.GatewayAddress_Address{
		Address: &workload.NetworkAddress{Network: network, Address: netip.MustParseAddr(ip).AsSlice()}}}
}

func also(ip string) editWorkload {
	return func(w *workload.Workload) { w.Addresses = append(w.Addresses, netip.MustParseAddr(ip).AsSlice()) }
}

func hostname(name string) editWorkload { return func(w *workload.Workload) { w.Hostname = name } }

func capacity(n uint32) editWorkload {
	return func(w *workload.Workload) { w.Capacity = wrapperspb.UInt32(n) }
}

func sick(w *workload.Workload) { w.Status = workload.WorkloadStatus_UNHEALTHY }

func tunnel(w *workload.Workload) { w.ApplicationTunnel = &workload.ApplicationTunnel{Port: 15088} }

func mode(mode workload.LoadBalancing_Mode, scopes ...workload.LoadBalancing_Scope) editService {
	return func(s *workload.Service) {
		s.LoadBalancing = &workload.LoadBalancing{Mode: mode, RoutingPreference: scopes}
	}
}

func families(f workload.IPFamilies) editService {
	return func(s *workload.Service) { s.IpFamilies = f }
}

func servicePorts(pairs ...uint32) editService {
	return func(s *workload.Service) {
		s.Ports = nil
		for i := 0; i < len(pairs); i += 2 {
			s.Ports = append(s.Ports, &workload.Port{ServicePort: pairs[i], TargetPort: pairs[i+1]})
		}
	}
}

func tableOf(t testing.TB, addresses ...*workload.Address) *state.Table {
	t.Helper()
	store := state.NewStore()
	if err := store.Apply(state.Update{Addresses: addresses}); err != nil {
		t.Fatal(err)
	}
	return store.Load()
}

// client runs in region r, zone z, on node n, in network "".
var client = &state.Workload{Namespace: "shop", Node: "n", ClusterID: "Kubernetes", Locality: state.Locality{Region: "r", Zone: "z"}}

func caller(t *state.Table, dialled netip.Addr) *balance.Client {
	return &balance.Client{Table: t, From: client, Dialled: dialled}
}

const (
	strict      = workload.LoadBalancing_STRICT
	failover    = workload.LoadBalancing_FAILOVER
	passthrough = workload.LoadBalancing_PASSTHROUGH
	byRegion    = workload.LoadBalancing_REGION
	byZone      = workload.LoadBalancing_ZONE
	bySubzone   = workload.LoadBalancing_SUBZONE
	byNode      = workload.LoadBalancing_NODE
	byCluster   = workload.LoadBalancing_CLUSTER
	byNetwork   = workload.LoadBalancing_NETWORK
)

// outcomes picks often and returns all that can happen, as text.
func outcomes(pick func() (balance.Choice, error)) string {
	seen := map[string]bool{}
	for range 300 {
		choice, err := pick()
		var text []string
		if choice.Workload != nil {
			text = append(text, choice.Workload.Name)
		}
		for _, known := range []error{balance.ErrNoEndpoint, balance.ErrNeedsDNS, balance.ErrPassthrough, balance.ErrRemoteNetwork} {
			if errors.Is(err, known) {
				text = append(text, known.Error())
			}
		}
		if choice.Workload != nil {
			text = append(text, choice.Addr.String())
		}
		seen[strings.Join(text, " ")] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), ", ")
}

func TestPick(t *testing.T) {
	both := []*workload.Address{pod("a", "10.0.0.1", in("r", "z", "n")), pod("b", "10.0.0.2", in("r", "y", "m"))}
	for _, test := range []struct {
		name      string
		service   *workload.Address
		endpoints []*workload.Address
		dialled   netip.Addr
		want      string
	}{
		{"no endpoints", web(), nil, v4, "no healthy upstream"},
		{"all endpoints", web(), both, v4, "a 10.0.0.1:8080, b 10.0.0.2:8080"},
		{"unhealthy endpoints are left out", web(), []*workload.Address{both[0], pod("c", "10.0.0.3", sick)}, v4, "a 10.0.0.1:8080"},
		{"only unhealthy ones", web(), []*workload.Address{pod("c", "10.0.0.3", sick)}, v4, "no healthy upstream"},
		{"unhealthy ones where wanted", web(func(s *workload.Service) {
			s.LoadBalancing = &workload.LoadBalancing{HealthPolicy: workload.LoadBalancing_ALLOW_ALL}
		}), []*workload.Address{pod("c", "10.0.0.3", sick)}, v4, "c 10.0.0.3:8080"},
		{"capacity 0", web(), []*workload.Address{both[0], pod("c", "10.0.0.3", capacity(0))}, v4, "a 10.0.0.1:8080"},
		{"only capacity 0", web(), []*workload.Address{pod("c", "10.0.0.3", capacity(0))}, v4, "no healthy upstream"},
		{"passthrough", web(mode(passthrough)), both, v4, "the service passes connections through"},

		{"preferences without a mode", web(mode(0, byZone)), both, v4, "a 10.0.0.1:8080, b 10.0.0.2:8080"},
		{"strict", web(mode(strict, byNode)), both, v4, "a 10.0.0.1:8080"},
		{"strict without a match", web(mode(strict, byNode)), both[1:], v4, "no healthy upstream"},
		{"strict needs all", web(mode(strict, byRegion, byNode)), both[1:], v4, "no healthy upstream"},
		{"strict without preferences", web(mode(strict)), both, v4, "a 10.0.0.1:8080, b 10.0.0.2:8080"},
		{"failover prefers", web(mode(failover, byRegion, byZone)), both, v4, "a 10.0.0.1:8080"},
		{"failover takes what there is", web(mode(failover, byRegion, byZone)), both[1:], v4, "b 10.0.0.2:8080"},
		{"failover with equal ranks", web(mode(failover, byRegion)), both, v4, "a 10.0.0.1:8080, b 10.0.0.2:8080"},
		{"a mismatch ends the count", web(mode(failover, byRegion, byZone, byNode)), []*workload.Address{
			pod("a", "10.0.0.1", in("r", "y", "n")), pod("b", "10.0.0.2", in("r", "z", "m")), pod("c", "10.0.0.3", in("q", "z", "n"))}, v4, "b 10.0.0.2:8080"},
		{"subzone and cluster", web(mode(failover, bySubzone, byCluster)), []*workload.Address{
			pod("a", "10.0.0.1", func(w *workload.Workload) { w.ClusterId = "other" }), both[1]}, v4, "b 10.0.0.2:8080"},
		{"local network outranks region and zone", web(mode(failover, byNetwork, byRegion, byZone)), []*workload.Address{
			pod("far", "10.0.0.1", in("r", "z", "n"), network("west", true)), pod("near", "10.0.0.2", in("q", "x", "m"))}, v4, "near 10.0.0.2:8080"},
		{"remote network ranks by the rest", web(mode(failover, byNetwork, byRegion)), []*workload.Address{
			pod("a", "10.0.0.1", in("r", "z", "n"), network("west", true)), pod("b", "10.0.0.2", in("q", "z", "n"), network("west", true))}, v4,
			"a the workload is in another network 10.0.0.1:8080"},
		{"network later is a condition", web(mode(failover, byRegion, byNetwork, byNode)), []*workload.Address{
			pod("a", "10.0.0.1", in("r", "z", "n"), network("west", true)), pod("b", "10.0.0.2", in("r", "z", "m"))}, v4, "b 10.0.0.2:8080"},
		{"strict network", web(mode(strict, byNetwork)), []*workload.Address{pod("a", "10.0.0.1", network("west", true))}, v4, "no healthy upstream"},

		{"target port of the service", web(servicePorts(80, 9000)), []*workload.Address{pod("a", "10.0.0.1", ports())}, v4, "a 10.0.0.1:9000"},
		{"target port of the endpoint", web(servicePorts(80, 9000)), []*workload.Address{pod("a", "10.0.0.1", ports(80, 9001))}, v4, "a 10.0.0.1:9001"},
		{"named port", web(servicePorts(80, 0)), []*workload.Address{
			pod("a", "10.0.0.1", ports(80, 9001)), pod("b", "10.0.0.2", ports(80, 9002)), pod("c", "10.0.0.3", ports(81, 9003))}, v4,
			"a 10.0.0.1:9001, b 10.0.0.2:9002"},
		{"named port that nobody has", web(servicePorts(80, 0)), []*workload.Address{pod("a", "10.0.0.1", ports())}, v4, "no healthy upstream"},
		{"port that the service lacks", web(servicePorts(81, 81)), both, v4, "no healthy upstream"},
		{"application tunnels are no excuse", web(servicePorts(81, 81)), []*workload.Address{pod("a", "10.0.0.1", tunnel)}, v4, "no healthy upstream"},

		{"family of the client", web(), []*workload.Address{pod("a", "10.0.0.1", also("fd00::1"))}, v6, "a [fd00::1]:8080"},
		{"other family", web(), []*workload.Address{pod("a", "10.0.0.1")}, v6, "a 10.0.0.1:8080"},
		{"IPv4 only", web(families(workload.IPFamilies_IPV4_ONLY)), []*workload.Address{pod("a", "fd00::1", also("10.0.0.1"))}, v6, "a 10.0.0.1:8080"},
		{"IPv6 only", web(families(workload.IPFamilies_IPV6_ONLY)), []*workload.Address{pod("a", "10.0.0.1", also("fd00::1"))}, v4, "a [fd00::1]:8080"},
		{"no address of the family", web(families(workload.IPFamilies_IPV6_ONLY)), both, v4, "no healthy upstream"},
		{"dual stack", web(families(workload.IPFamilies_DUAL)), []*workload.Address{pod("a", "10.0.0.1", also("fd00::1"))}, v6, "a [fd00::1]:8080"},

		{"no address", web(), []*workload.Address{pod("a", "")}, v4, "no healthy upstream"},
		{"hostname", web(), []*workload.Address{pod("a", "", hostname("a.example"))}, v4, "a the workload's hostname has to be resolved invalid AddrPort"},
		{"another network", web(), []*workload.Address{pod("a", "", network("west", true))}, v4, "a the workload is in another network invalid AddrPort"},
		{"another network with a hostname", web(), []*workload.Address{pod("a", "", hostname("a.example"), network("west", true))}, v4, "a the workload is in another network invalid AddrPort"},
		{"another network without a gateway", web(), []*workload.Address{pod("a", "10.0.0.1", network("west", false)), both[1]}, v4, "b 10.0.0.2:8080"},
		{"gateway of the own network", web(), []*workload.Address{pod("a", "", network("", true))}, v4, "no healthy upstream"},
		{"host network", web(), []*workload.Address{pod("a", "10.0.0.1", func(w *workload.Workload) { w.NetworkMode = workload.NetworkMode_HOST_NETWORK })}, v4, "a 10.0.0.1:8080"},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := tableOf(t, append(test.endpoints, test.service)...)
			svc := table.Service("shop", "web")
			got := outcomes(func() (balance.Choice, error) { return caller(table, test.dialled).Pick(svc, 80) })
			if got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
		})
	}
}

func TestChoiceNeedingDNSHasThePort(t *testing.T) {
	table := tableOf(t, web(), pod("a", "", hostname("a.example")))
	choice, err := caller(table, v4).Pick(table.Service("shop", "web"), 80)
	if !errors.Is(err, balance.ErrNeedsDNS) || choice.Addr.Port() != 8080 || choice.Service == nil {
		t.Errorf("Pick = %+v, %v; want port 8080 and the service", choice, err)
	}
}

func TestPickSaysWhatIsMissing(t *testing.T) {
	table := tableOf(t, web(), pod("a", "10.0.0.1"))
	_, err := caller(table, v4).Pick(table.Service("shop", "web"), 81)
	if want := "no healthy upstream: service shop/web has no port 81"; err == nil || err.Error() != want {
		t.Errorf("Pick = %v, want %s", err, want)
	}
}

func TestPickFollowsCapacity(t *testing.T) {
	for name, endpoints := range map[string][]*workload.Address{
		"all alike":       {pod("a", "10.0.0.1", capacity(1)), pod("b", "10.0.0.2", capacity(3)), pod("c", "10.0.0.3", capacity(6))},
		"after a search":  {pod("a", "10.0.0.1", capacity(1)), pod("b", "10.0.0.2", capacity(3)), pod("c", "10.0.0.3", capacity(6)), pod("x", "", capacity(1000))},
		"rarely searched": {pod("a", "10.0.0.1", capacity(1)), pod("b", "10.0.0.2", capacity(3)), pod("c", "10.0.0.3", capacity(6)), pod("x", "", capacity(6)), pod("y", "", capacity(6))},
	} {
		t.Run(name, func(t *testing.T) {
			table := tableOf(t, append(endpoints, web())...)
			const picks = 20_000
			counts := map[string]int{}
			for range picks {
				choice, err := caller(table, v4).Pick(table.Service("shop", "web"), 80)
				if err != nil {
					t.Fatal(err)
				}
				counts[choice.Workload.Name]++
			}
			for pod, share := range map[string]float64{"a": 0.1, "b": 0.3, "c": 0.6} {
				if got := float64(counts[pod]) / float64(picks); got < share-0.02 || got > share+0.02 {
					t.Errorf("%s got %.3f of the connections, want %.1f", pod, got, share)
				}
			}
		})
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	list := []*workload.Address{web(mode(failover, byRegion, byZone, byNode))}
	for i := range 1000 {
		list = append(list, pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), in("r", "z", "elsewhere")))
	}
	table := tableOf(t, list...)
	svc := table.Service("shop", "web")
	n := testing.AllocsPerRun(100, func() {
		if _, err := caller(table, v4).Pick(svc, 80); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		for name, service := range map[string]*workload.Address{"any": web(), "zone": web(mode(failover, byRegion, byZone)), "absent-node": web(mode(failover, byNode))} {
			list := []*workload.Address{service}
			for i := range n {
				list = append(list, pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), in("r", []string{"x", "y", "z"}[i%3], "elsewhere")))
			}
			table := tableOf(b, list...)
			svc := table.Service("shop", "web")
			b.Run(fmt.Sprintf("%s/endpoints=%d", name, n), func(b *testing.B) {
				for b.Loop() {
					if _, err := caller(table, v4).Pick(svc, 80); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// Which address of an endpoint is dialled, by its families, the service's and the client's.
func TestFamilies(t *testing.T) {
	const a4, a6 = "a 10.0.0.1:8080", "a [fd00::1]:8080"
	only4, only6, dual := pod("a", "10.0.0.1"), pod("a", "fd00::1"), pod("a", "fd00::1", also("10.0.0.1"))
	for _, test := range []struct {
		service  workload.IPFamilies
		endpoint *workload.Address
		v4, v6   string // by what the client dialled; "" as nothing
	}{
		{workload.IPFamilies_AUTOMATIC, only4, a4, a4},
		{workload.IPFamilies_AUTOMATIC, only6, a6, a6},
		{workload.IPFamilies_AUTOMATIC, dual, a4, a6},
		{workload.IPFamilies_IPV4_ONLY, only4, a4, a4},
		{workload.IPFamilies_IPV4_ONLY, only6, "", ""},
		{workload.IPFamilies_IPV4_ONLY, dual, a4, a4},
		{workload.IPFamilies_IPV6_ONLY, only4, "", ""},
		{workload.IPFamilies_IPV6_ONLY, only6, a6, a6},
		{workload.IPFamilies_IPV6_ONLY, dual, a6, a6},
		{workload.IPFamilies_DUAL, only4, a4, a4},
		{workload.IPFamilies_DUAL, only6, a6, a6},
		{workload.IPFamilies_DUAL, dual, a4, a6},
	} {
		table := tableOf(t, web(families(test.service)), test.endpoint)
		for dialled, want := range map[netip.Addr]string{v4: test.v4, v6: test.v6} {
			if want == "" {
				want = "no healthy upstream"
			}
			if got := outcomes(func() (balance.Choice, error) { return caller(table, dialled).Pick(table.Service("shop", "web"), 80) }); got != want {
				t.Errorf("%s service, endpoint with %d addresses, dialled %s: %s, want %s", test.service, len(test.endpoint.GetWorkload().Addresses), dialled, got, want)
			}
		}
	}
}
