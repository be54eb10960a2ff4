package state_test

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func canonical(s *workload.Service) { s.Canonical = true }

func hidden(s *workload.Service) { s.Visibility = workload.ServiceVisibility_NAMESPACE }

// ranges gives a service ranges of virtual addresses.
func ranges(prefixes ...string) func(*workload.Service) {
	return func(s *workload.Service) {
		for _, text := range prefixes {
			prefix := netip.MustParsePrefix(text)
			s.Addresses = append(s.Addresses, &workload.NetworkAddress{
				Address: prefix.Addr().AsSlice(), Length: proto.Uint32(uint32(prefix.Bits())),
			})
		}
	}
}

func both(edits ...func(*workload.Service)) func(*workload.Service) {
	return func(s *workload.Service) {
		for _, edit := range edits {
			edit(s)
		}
	}
}

func TestAddressMeansTheServiceNearestToTheClient(t *testing.T) {
	const vip = "172.16.0.1"
	for _, test := range []struct {
		name     string
		services []*workload.Address
		client   string
		dialled  string
		want     string
	}{
		{"only one", []*workload.Address{service("a", "x", vip, nil)}, "c", vip, "a/x"},
		{"none", []*workload.Address{service("a", "x", vip, nil)}, "c", "172.16.0.2", ""},
		{"own namespace before canonical", []*workload.Address{service("a", "x", vip, canonical), service("c", "x", vip, nil)}, "c", vip, "c/x"},
		{"canonical before first", []*workload.Address{service("a", "x", vip, nil), service("b", "x", vip, canonical)}, "c", vip, "b/x"},
		{"first by name", []*workload.Address{service("b", "x", vip, nil), service("a", "y", vip, nil), service("a", "x", vip, nil)}, "c", vip, "a/x"},
		{"hidden from others", []*workload.Address{service("a", "x", vip, both(hidden, canonical)), service("b", "x", vip, nil)}, "c", vip, "b/x"},
		{"hidden and alone", []*workload.Address{service("a", "x", vip, hidden)}, "c", vip, ""},
		{"seen from its own namespace", []*workload.Address{service("a", "x", vip, hidden), service("b", "x", vip, canonical)}, "a", vip, "a/x"},

		{"range", []*workload.Address{service("a", "x", "", ranges("172.16.0.0/16"))}, "c", vip, "a/x"},
		{"outside of the range", []*workload.Address{service("a", "x", "", ranges("172.16.0.0/16"))}, "c", "172.17.0.1", ""},
		{"exact before range", []*workload.Address{service("a", "x", vip, nil), service("c", "y", "", ranges("172.16.0.0/16"))}, "c", vip, "a/x"},
		{"exact but hidden", []*workload.Address{service("a", "x", vip, hidden), service("b", "y", "", ranges("172.16.0.0/16"))}, "c", vip, "b/y"},
		{"longer range", []*workload.Address{service("a", "x", "", both(canonical, ranges("172.16.0.0/16"))), service("b", "y", "", ranges("172.16.0.0/24"))}, "c", vip, "b/y"},
		{"own namespace before longer range", []*workload.Address{service("a", "x", "", ranges("172.16.0.0/24")), service("c", "y", "", ranges("172.0.0.0/8"))}, "c", vip, "c/y"},
		{"longer range in the own namespace", []*workload.Address{service("c", "x", "", ranges("172.0.0.0/8")), service("c", "y", "", ranges("172.16.0.0/24"))}, "c", vip, "c/y"},
		{"canonical of equal ranges", []*workload.Address{service("a", "x", "", ranges("172.16.0.0/16")), service("b", "y", "", both(canonical, ranges("172.16.0.0/16")))}, "c", vip, "b/y"},
		{"hidden range", []*workload.Address{service("a", "x", "", both(hidden, ranges("172.16.0.0/24"))), service("b", "y", "", ranges("172.16.0.0/16"))}, "c", vip, "b/y"},
		{"IPv6 range", []*workload.Address{service("a", "x", "", ranges("2001:2::/48", "0.0.0.0/0"))}, "c", "2001:2::7", "a/x"},
		{"no IPv6 range", []*workload.Address{service("a", "x", "", ranges("0.0.0.0/0"))}, "c", "2001:2::7", ""},
		{"range given twice", []*workload.Address{service("a", "x", "", ranges("172.16.0.0/16", "172.16.9.9/16"))}, "c", vip, "a/x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := tableOf(t, test.services...)
			w, s := table.Find("", netip.MustParseAddr(test.dialled), test.client)
			if got := nameOf(s); got != test.want || w != nil {
				t.Errorf("%s from %s means %q, %v; want %q", test.dialled, test.client, got, w, test.want)
			}
			if _, s := table.Find("other", netip.MustParseAddr(test.dialled), test.client); s != nil {
				t.Errorf("in another network it means %s", nameOf(s))
			}
		})
	}
}

func nameOf(s *state.Service) string {
	if s == nil {
		return ""
	}
	return s.Key().String()
}

func TestRangesGoWithTheirServices(t *testing.T) {
	store := state.NewStore()
	x, y := service("a", "x", "", ranges("172.16.0.0/16")), service("b", "y", "", ranges("172.16.0.0/16"))
	apply(t, store, state.Update{Addresses: []*workload.Address{x, y}})
	apply(t, store, state.Update{Addresses: []*workload.Address{x}})
	apply(t, store, state.Update{RemovedAddresses: []string{"a/x"}})
	dialled := netip.MustParseAddr("172.16.0.1")
	if s := store.Load().VIP("", dialled, "c"); nameOf(s) != "b/y" {
		t.Errorf("the range means %q, want the service that is left", nameOf(s))
	}
	apply(t, store, state.Update{RemovedAddresses: []string{"b/y"}})
	if s := store.Load().VIP("", dialled, "c"); s != nil {
		t.Errorf("the range means %q, want nothing", nameOf(s))
	}
}

func TestServicesByHostAreOrdered(t *testing.T) {
	table := tableOf(t, service("b", "x", "", nil), service("c", "y", "", nil), service("a", "x", "", nil))
	list := table.ServicesByHost("x")
	if len(list) != 2 || nameOf(list[0]) != "a/x" || nameOf(list[1]) != "b/x" {
		t.Errorf("services of x = %v", list)
	}
	if table.ServicesByHost("z") != nil || table.Service("a", "y") != nil {
		t.Error("found services that are not there")
	}
}

func TestEndpointsComeBeforeOrAfterTheirService(t *testing.T) {
	sick := func(w *workload.Workload) { w.Status = workload.WorkloadStatus_UNHEALTHY; behind("shop/web")(w) }
	resources := []*workload.Address{
		pod("a", "10.0.0.1", behind("shop/web", "shop/other")), pod("b", "10.0.0.2", sick), service("shop", "web", "", nil),
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {0, 2, 1}} {
		store := state.NewStore()
		for _, i := range order {
			apply(t, store, state.Update{Addresses: resources[i : i+1]})
		}
		table := store.Load()
		list := table.Endpoints(table.Service("shop", "web"))
		if len(list) != 1 || list[0].Workload.Name != "a" || list[0].Ports[0].Target != 8080 {
			t.Errorf("order %v: endpoints = %v, want the healthy pod", order, list)
		}
		if e, ok := table.Endpoint(table.Service("shop", "web"), table.Workload("Kubernetes//Pod/shop/b")); !ok || e.Workload.Healthy {
			t.Errorf("order %v: the unhealthy endpoint is %v, %v", order, e, ok)
		}
		anyHealth := service("shop", "web", "", func(s *workload.Service) {
			s.LoadBalancing = &workload.LoadBalancing{HealthPolicy: workload.LoadBalancing_ALLOW_ALL}
		})
		apply(t, store, state.Update{Addresses: []*workload.Address{anyHealth}})
		if table = store.Load(); len(table.Endpoints(table.Service("shop", "web"))) != 2 {
			t.Errorf("order %v: the service does not get its unhealthy endpoint", order)
		}
	}
}

func TestEndpointLeavesAServiceThatItNoLongerNames(t *testing.T) {
	store := state.NewStore()
	apply(t, store, state.Update{Addresses: []*workload.Address{
		pod("a", "10.0.0.1", behind("shop/web")), service("shop", "web", "", nil), service("shop", "new", "", nil),
	}})
	apply(t, store, state.Update{Addresses: []*workload.Address{pod("a", "10.0.0.1", behind("shop/new"))}})
	table := store.Load()
	if left, came := table.Endpoints(table.Service("shop", "web")), table.Endpoints(table.Service("shop", "new")); len(left) != 0 || len(came) != 1 {
		t.Errorf("endpoints left behind %v and come %v", left, came)
	}
}

func TestEndpointsAreReadWithoutAllocation(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1", behind("shop/web")), service("shop", "web", "172.16.0.1", nil))
	svc, vip := table.Service("shop", "web"), netip.MustParseAddr("172.16.0.1")
	table.Endpoints(svc)
	if n := testing.AllocsPerRun(100, func() { table.Endpoints(svc); table.Find("", vip, "shop") }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestServicesAtAnAddressAreForWhoeverSeesThem(t *testing.T) {
	table := tableOf(t, service("b", "y", "172.16.0.1", hidden), service("a", "x", "172.16.0.1", nil), service("c", "z", "", ranges("172.16.0.0/16")))
	for ip, want := range map[string]string{"172.16.0.1": "a/x b/y c/z", "172.16.9.9": "c/z", "10.0.0.1": ""} {
		var got []string
		for s := range table.ServicesAt("", netip.MustParseAddr(ip)) {
			got = append(got, nameOf(s))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("services at %s are %q, want %q", ip, text, want)
		}
	}
	for range table.ServicesAt("", netip.Addr{}) {
		t.Error("a service without an address is found")
	}
}

func TestPreferredNamespaceWinsARange(t *testing.T) {
	for _, test := range []struct{ preferred, client, want string }{
		{"", "client", "b/y"}, // the canonical one
		{"c", "client", "c/z"},
		{"c", "a", "a/x"},
		{"nobody", "client", "b/y"},
	} {
		store := state.NewStore()
		store.Prefer(test.preferred)
		apply(t, store, state.Update{Addresses: []*workload.Address{
			service("a", "x", "", ranges("172.16.0.0/16")),
			service("b", "y", "", func(s *workload.Service) { ranges("172.16.0.0/16")(s); canonical(s) }),
			service("c", "z", "", ranges("172.16.0.0/16")),
		}})
		if got := store.Load().VIP("", netip.MustParseAddr("172.16.1.1"), test.client); nameOf(got) != test.want {
			t.Errorf("preferring %q, clients in %s mean %s, want %s", test.preferred, test.client, nameOf(got), test.want)
		}
	}
}

func TestWorkloadComesBeforeARangeAroundIt(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1", nil), pod("b", "10.0.0.2", nil), service("shop", "web", "10.0.0.2", nil), service("shop", "wide", "", ranges("10.0.0.0/8")))
	if w, svc := table.Find("", netip.Addr{}, "shop"); w != nil || svc != nil {
		t.Errorf("no address means %v, %v", w, svc)
	}
	for address, want := range map[string][2]string{"10.0.0.1": {"a", ""}, "10.0.0.2": {"b", "shop/web"}, "10.0.0.3": {"", "shop/wide"}, "192.0.2.1": {}} {
		w, svc := table.Find("", netip.MustParseAddr(address), "shop")
		var got [2]string
		if w != nil {
			got[0] = w.Name
		}
		if svc != nil {
			got[1] = nameOf(svc)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
}
