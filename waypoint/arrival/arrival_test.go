package arrival_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/waypoint/arrival"
)

func addr(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func waypointOf(host string) *workload.GatewayAddress {
	return &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{
		Hostname: &workload.NamespacedHostname{Namespace: "shop", Hostname: host}}}
}

// world has the waypoint wp, which serves web and the pod lone, and another one's service.
func world(t *testing.T) (*state.Table, *state.Workload) {
	t.Helper()
	service := func(namespace, name, vip string, gateway *workload.GatewayAddress) *workload.Address {
		return &workload.Address{Type: &workload.Address_Service{Service: &workload.Service{
			Name: name, Namespace: namespace, Hostname: name + ".example", Waypoint: gateway, Addresses: []*workload.NetworkAddress{{Address: addr(vip)}},
			Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080, AppProtocol: workload.AppProtocol_HTTP2}},
		}}}
	}
	pod := func(name, ip string, gateway *workload.GatewayAddress, of string) *workload.Address {
		w := &workload.Workload{Uid: "c//Pod/shop/" + name, Name: name, Namespace: "shop", ServiceAccount: "sa", TrustDomain: "td", Addresses: [][]byte{addr(ip)}, Waypoint: gateway}
		if of != "" {
			w.Services = map[string]*workload.PortList{of: {Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15008}}}}
		}
		return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
	}
	store := state.NewStore()
	err := store.Apply(state.Update{Addresses: []*workload.Address{
		service("shop", "wp", "10.96.0.1", nil), service("shop", "web", "10.96.0.2", waypointOf("wp.example")), service("bank", "web", "10.96.0.3", waypointOf("wp.example")),
		service("shop", "others", "10.96.0.4", waypointOf("other.example")), service("shop", "plain", "10.96.0.5", nil),
		pod("wp-1", "10.0.0.1", nil, "shop/wp.example"), pod("lone", "10.0.0.2", waypointOf("wp.example"), ""), pod("free", "10.0.0.3", nil, ""),
	}})
	if err != nil {
		t.Fatal(err)
	}
	table := store.Load()
	return table, table.Workload("c//Pod/shop/wp-1")
}

func TestAnAuthorityMeansOnlyWhatIsBoundToTheWaypoint(t *testing.T) {
	table, self := world(t)
	for _, test := range []struct {
		authority, want string
		err             error
	}{
		{"10.96.0.2:80", "shop/web.example:80", nil},
		{"10.96.0.3:80", "bank/web.example:80", nil},
		{"10.96.0.2:81", "shop/web.example:81", arrival.ErrNoPort},
		{"10.0.0.2:9999", "10.0.0.2:9999", nil},
		{"web.example:80", "shop/web.example:80", nil}, // the own namespace's
		{"10.96.0.4:80", "", arrival.ErrStranger},
		{"10.96.0.5:80", "", arrival.ErrStranger},
		{"10.96.0.1:15008", "", arrival.ErrStranger},
		{"10.0.0.3:80", "", arrival.ErrStranger},
		{"192.0.2.1:80", "", arrival.ErrStranger},
		{"plain.example:80", "", arrival.ErrStranger},
		{"nobody.example:80", "", arrival.ErrStranger},
	} {
		authority, err := hbone.ParseAuthority(test.authority)
		if err != nil {
			t.Fatal(err)
		}
		d, err := arrival.Find(table, self, netip.MustParseAddr("10.0.0.1"), authority)
		if !errors.Is(err, test.err) || (test.want != "" && d.String() != test.want) {
			t.Errorf("%s: %s, %v; want %s, %v", test.authority, d, err, test.want, test.err)
		}
		if err == nil && d.Service != nil && d.Protocol != state.HTTP2 {
			t.Errorf("%s: protocol %d", test.authority, d.Protocol)
		}
	}
}
