package balance_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func byHost(name string) *state.Gateway {
	return &state.Gateway{Host: state.Name{Namespace: "shop", Name: name}, Port: 15008}
}

func byAddress(network, ip string) *state.Gateway {
	return &state.Gateway{Address: state.NetworkAddress{Network: network, Addr: netip.MustParseAddr(ip)}, Port: 15008}
}

func TestGateway(t *testing.T) {
	for _, test := range []struct {
		name      string
		gateway   *state.Gateway
		addresses []*workload.Address
		waypoint  string // as a waypoint
		way       string // as the way into another network; "" as the former
	}{
		{"workload by address", byAddress("", "10.0.0.1"), []*workload.Address{pod("w", "10.0.0.1")}, "w 10.0.0.1:15008", ""},
		{"unknown address", byAddress("", "10.0.0.2"), []*workload.Address{pod("w", "10.0.0.1")}, "no healthy upstream", ""},
		{"address in another network", byAddress("west", "10.0.0.1"), []*workload.Address{pod("w", "10.0.0.1")}, "no healthy upstream", ""},
		{"service by virtual address", byAddress("", v4.String()), []*workload.Address{
			web(servicePorts(15008, 15008)), pod("w", "10.0.0.1", ports())}, "w 10.0.0.1:15008", ""},
		{"service by hostname", byHost("web"), []*workload.Address{
			web(servicePorts(15008, 15018)), pod("w", "10.0.0.1", ports())}, "w 10.0.0.1:15018", ""},
		{"service without the port", byHost("web"), []*workload.Address{web(), pod("w", "10.0.0.1")}, "no healthy upstream", ""},
		{"service without the port before a proxy", byHost("web"), []*workload.Address{web(), pod("w", "10.0.0.1", tunnel)}, "w 10.0.0.1:15008", ""},
		{"service without instances", byHost("web"), []*workload.Address{web()}, "no healthy upstream", ""},
		{"workload by hostname", byHost("w.example"), []*workload.Address{pod("w", "10.0.0.1", hostname("w.example"))}, "w 10.0.0.1:15008", ""},
		{"unknown hostname", byHost("nobody"), []*workload.Address{pod("w", "10.0.0.1", hostname("w.example"))}, "no healthy upstream", ""},
		{"family follows the address of the gateway", byAddress("", "fd00::1"), []*workload.Address{pod("w", "10.0.0.1", also("fd00::1"))}, "w [fd00::1]:15008", ""},
		{"family follows the client", byHost("w.example"), []*workload.Address{pod("w", "fd00::1", also("10.0.0.1"), hostname("w.example"))}, "w 10.0.0.1:15008", ""},
		{"in another network", byAddress("west", "10.0.0.1"), []*workload.Address{pod("w", "10.0.0.1", network("west", true))},
			"w the workload is in another network 10.0.0.1:15008", "w 10.0.0.1:15008"},
		{"in another network without a gateway", byAddress("west", "10.0.0.1"), []*workload.Address{pod("w", "10.0.0.1", network("west", false))},
			"w no healthy upstream 10.0.0.1:15008", "w 10.0.0.1:15008"},
		{"service in another network", byHost("web"), []*workload.Address{web(servicePorts(15008, 15008)), pod("w", "10.0.0.1", network("west", false))},
			"w no healthy upstream 10.0.0.1:15008", "w 10.0.0.1:15008"},
		{"without an address", byHost("w.example"), []*workload.Address{pod("w", "", hostname("w.example"))},
			"w the workload's hostname has to be resolved invalid AddrPort", ""},
		{"behind yet another gateway", byHost("web"), []*workload.Address{web(servicePorts(15008, 15008)), pod("w", "", network("west", true))},
			"w the workload is in another network invalid AddrPort", "w no healthy upstream invalid AddrPort"},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := tableOf(t, test.addresses...)
			got := outcomes(func() (balance.Choice, error) { return caller(table, v4).Gateway(test.gateway) })
			if got != test.waypoint {
				t.Errorf("waypoint: got %s; want %s", got, test.waypoint)
			}
			if test.way == "" {
				test.way = test.waypoint
			}
			got = outcomes(func() (balance.Choice, error) { return caller(table, v4).NetworkGateway(test.gateway) })
			if got != test.way {
				t.Errorf("network gateway: got %s; want %s", got, test.way)
			}
		})
	}
}

func TestWeightedWaypoints(t *testing.T) {
	plain, a, b := byHost("plain"), *byHost("a"), *byHost("b")
	for _, test := range []struct {
		name     string
		waypoint *state.Gateway
		weighted []state.WeightedWaypoint
		shareOfB float64
	}{
		{"none", plain, nil, -1},
		{"nothing at all", nil, nil, -1},
		{"all zero", plain, []state.WeightedWaypoint{{Gateway: a}, {Gateway: b}}, -1},
		{"one has all", plain, []state.WeightedWaypoint{{Gateway: a}, {Gateway: b, Weight: 5}}, 1},
		{"by weight", nil, []state.WeightedWaypoint{{Gateway: a, Weight: 80}, {Gateway: b, Weight: 20}}, 0.2},
	} {
		t.Run(test.name, func(t *testing.T) {
			const picks = 10_000
			hits := 0
			for range picks {
				switch got := balance.Waypoint(&state.Service{Waypoint: test.waypoint, WeightedWaypoints: test.weighted}); {
				case test.shareOfB < 0 && got != test.waypoint:
					t.Fatalf("got %v, want the plain waypoint %v", got, test.waypoint)
				case got != nil && *got == b:
					hits++
				case test.shareOfB >= 0 && *got != a:
					t.Fatalf("got %v", got)
				}
			}
			if share := float64(hits) / picks; test.shareOfB >= 0 && (share < test.shareOfB-0.02 || share > test.shareOfB+0.02) {
				t.Errorf("b got %.3f, want %.2f", share, test.shareOfB)
			}
		})
	}
}

func TestAddrOfPrefersWhatTheClientDialled(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1", also("10.0.0.2"), also("fd00::1")))
	w, only6 := table.Workload("a"), &state.Service{IPFamilies: state.IPv6Only}
	for _, test := range []struct {
		svc           *state.Service
		dialled, want string
	}{
		{nil, "10.0.0.2", "10.0.0.2"},
		{only6, "10.0.0.2", "10.0.0.2"},
		{nil, "172.16.0.1", "10.0.0.1"},
		{nil, "fd00:16::1", "fd00::1"},
		{only6, "172.16.0.1", "fd00::1"},
	} {
		if got, err := balance.AddrOf(w, test.svc, netip.MustParseAddr(test.dialled)); err != nil || got.String() != test.want {
			t.Errorf("AddrOf(%s) = %s, %v; want %s", test.dialled, got, err, test.want)
		}
	}
	for want, w := range map[error]*state.Workload{
		balance.ErrNoEndpoint:    {},
		balance.ErrNeedsDNS:      {Hostname: "x", NetworkGateway: byHost("g")},
		balance.ErrRemoteNetwork: {NetworkGateway: byHost("g")},
	} {
		if _, err := balance.AddrOf(w, nil, v4); !errors.Is(err, want) {
			t.Errorf("AddrOf = %v, want %v", err, want)
		}
	}
}
