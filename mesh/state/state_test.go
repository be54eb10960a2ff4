package state_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ip returns the bytes of an address.
func ip(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

// pod returns a workload called as the control plane calls pods, changed by edit.
func pod(name, address string, edit func(*workload.Workload)) *workload.Address {
	w := &workload.Workload{
		Uid: "Kubernetes//Pod/shop/" + name, Name: name, Namespace: "shop", ServiceAccount: "sa-" + name, Addresses: [][]byte{ip(address)},
	}
	if edit != nil {
		edit(w)
	}
	return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
}

// service returns a service of the namespace with one virtual address, changed by edit.
func service(namespace, hostname, vip string, edit func(*workload.Service)) *workload.Address {
	s := &workload.Service{Name: hostname, Namespace: namespace, Hostname: hostname}
	if vip != "" {
		s.Addresses = []*workload.NetworkAddress{{Address: ip(vip)}}
	}
	if edit != nil {
		edit(s)
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

func behind(services ...string) func(*workload.Workload) {
	return func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{}
		for _, s := range services {
			w.Services[s] = &workload.PortList{Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}
		}
	}
}

// tableOf applies the resources in one update.
func tableOf(t *testing.T, addresses ...*workload.Address) *state.Table {
	t.Helper()
	store := state.NewStore()
	apply(t, store, state.Update{Addresses: addresses})
	return store.Load()
}

func apply(t *testing.T, store *state.Store, u state.Update) {
	t.Helper()
	if err := store.Apply(u); err != nil {
		t.Fatal(err)
	}
}

func TestWorkloadIsFoundByEachOfItsNames(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1", func(w *workload.Workload) {
		w.Addresses = append(w.Addresses, ip("fd00::1"), ip("::ffff:10.0.0.9"), ip("10.0.0.1"))
		w.Hostname = "a.example"
	}))
	want := table.Workload("Kubernetes//Pod/shop/a")
	if want == nil {
		t.Fatal("not found by uid")
	}
	for name, got := range map[string]*state.Workload{
		"pod":                  table.ByPod("shop", "a", "sa-a"),
		"address":              table.WorkloadAt("", netip.MustParseAddr("10.0.0.1")),
		"IPv6 address":         table.WorkloadAt("", netip.MustParseAddr("fd00::1")),
		"mapped address":       table.WorkloadAt("", netip.MustParseAddr("10.0.0.9")),
		"look-up by mapped IP": table.WorkloadAt("", netip.MustParseAddr("::ffff:10.0.0.1")),
		"hostname":             table.WorkloadByHost("shop", "a.example"),
	} {
		if got != want {
			t.Errorf("by %s: %v, want the pod", name, got)
		}
	}
	if w := table.ByPod("shop", "a", "other"); w != nil {
		t.Errorf("another service account finds %s", w.UID)
	}
	if w := table.WorkloadAt("other", netip.MustParseAddr("10.0.0.1")); w != nil {
		t.Errorf("another network finds %s", w.UID)
	}
}

func TestHostNetworkWorkloadsHaveNoAddressOfTheirOwn(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1", func(w *workload.Workload) { w.NetworkMode = workload.NetworkMode_HOST_NETWORK }))
	if w := table.WorkloadAt("", netip.MustParseAddr("10.0.0.1")); w != nil {
		t.Errorf("found %s by the node's address", w.UID)
	}
	if w := table.ByPod("shop", "a", "sa-a"); w == nil || !w.HostNetwork {
		t.Errorf("by pod: %v, want the workload", w)
	}
}

func TestTwoWorkloadsWithOneAddress(t *testing.T) {
	hbone := func(w *workload.Workload) { w.TunnelProtocol = workload.TunnelProtocol_HBONE }
	entry := pod("entry", "10.0.0.1", func(w *workload.Workload) {
		w.Uid = "Kubernetes/networking.istio.io/WorkloadEntry/shop/entry"
		hbone(w)
	})
	plain, tunnel := pod("a-plain", "10.0.0.1", nil), pod("z-tunnel", "10.0.0.1", hbone)
	for _, test := range []struct {
		name      string
		addresses []*workload.Address
		want      string
	}{
		{"pod before entry", []*workload.Address{entry, plain}, "a-plain"},
		{"HBONE before plain", []*workload.Address{plain, tunnel}, "z-tunnel"},
		{"all", []*workload.Address{tunnel, entry, plain}, "z-tunnel"},
	} {
		if w := tableOf(t, test.addresses...).WorkloadAt("", netip.MustParseAddr("10.0.0.1")); w == nil || w.Name != test.want {
			t.Errorf("%s: %v, want %s", test.name, w, test.want)
		}
	}
	store := state.NewStore()
	apply(t, store, state.Update{Addresses: []*workload.Address{plain, tunnel}})
	apply(t, store, state.Update{RemovedAddresses: []string{"Kubernetes//Pod/shop/z-tunnel"}})
	if w := store.Load().WorkloadAt("", netip.MustParseAddr("10.0.0.1")); w == nil || w.Name != "a-plain" {
		t.Errorf("after the removal of one: %v, want the other", w)
	}
}

func TestAbsentValuesHaveDefaults(t *testing.T) {
	w := tableOf(t, pod("a", "10.0.0.1", func(w *workload.Workload) { w.ServiceAccount = "" })).Workload("Kubernetes//Pod/shop/a")
	got := fmt.Sprint(w.TrustDomain, " ", w.ServiceAccount, " ", w.ClusterID, " ", w.Capacity, " ", w.Identity, " ", w.Healthy, " ", w.Protocol)
	want := "cluster.local default Kubernetes 1 spiffe://cluster.local/ns/shop/sa/default true TCP"
	if got != want {
		t.Errorf("defaults = %s, want %s", got, want)
	}
	w = tableOf(t, pod("a", "10.0.0.1", func(w *workload.Workload) { w.Capacity = wrapperspb.UInt32(0); w.Namespace = "" })).Workload("Kubernetes//Pod/shop/a")
	if w.Capacity != 0 || !w.Identity.IsZero() {
		t.Errorf("capacity %d and identity %s, want 0 and none", w.Capacity, w.Identity)
	}
}

func TestRemovalByUIDAndByHostname(t *testing.T) {
	store := state.NewStore()
	apply(t, store, state.Update{Addresses: []*workload.Address{
		pod("a", "10.0.0.1", behind("shop/web")), pod("b", "10.0.0.2", behind("shop/web")), service("shop", "web", "172.16.0.1", nil),
	}})
	apply(t, store, state.Update{RemovedAddresses: []string{"Kubernetes//Pod/shop/a", "nobody", "shop/nothing", ""}})
	table := store.Load()
	svc := table.Service("shop", "web")
	if list := table.Endpoints(svc); len(list) != 1 || list[0].Workload.Name != "b" {
		t.Errorf("endpoints = %v, want the one that is left", list)
	}
	apply(t, store, state.Update{RemovedAddresses: []string{"shop/web"}})
	table = store.Load()
	if table.Service("shop", "web") != nil || table.VIP("", netip.MustParseAddr("172.16.0.1"), "shop") != nil || len(table.Services()) != 0 {
		t.Error("the service is still there")
	}
	if list := table.Endpoints(svc); len(list) != 0 {
		t.Errorf("the removed service has endpoints %v", list)
	}
	apply(t, store, state.Update{RemovedAddresses: []string{"Kubernetes//Pod/shop/b"}})
	if left := store.Load().Workloads(); len(left) != 0 {
		t.Errorf("workloads left: %v", left)
	}
}

func TestRejectedResourcesLeaveTheOlderOnesAndAllOthers(t *testing.T) {
	store := state.NewStore()
	apply(t, store, state.Update{Addresses: []*workload.Address{pod("a", "10.0.0.1", nil)}})
	err := store.Apply(state.Update{Addresses: []*workload.Address{
		pod("a", "10.0.0.9", func(w *workload.Workload) { w.TunnelProtocol = workload.TunnelProtocol_LEGACY_ISTIO_MTLS }),
		pod("b", "10.0.0.2", nil),
	}})
	var rejected state.Rejected
	if !errors.As(err, &rejected) || len(rejected) != 1 || !strings.Contains(err.Error(), "Kubernetes//Pod/shop/a: tunnel protocol LEGACY_ISTIO_MTLS") {
		t.Errorf("Apply = %v, want one resource to be rejected", err)
	}
	table := store.Load()
	if w := table.Workload("Kubernetes//Pod/shop/a"); w == nil || w.Addresses[0] != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("the older resource is %v, want it unchanged", w)
	}
	if table.Workload("Kubernetes//Pod/shop/b") == nil {
		t.Error("the good resource is missing")
	}
}

func TestTablesNeverChange(t *testing.T) {
	store := state.NewStore()
	apply(t, store, state.Update{
		Addresses: []*workload.Address{pod("a", "10.0.0.1", behind("shop/web")), service("shop", "web", "172.16.0.1", nil)},
		Policies:  []*security.Authorization{{Name: "p", Namespace: "shop", Scope: security.Scope_NAMESPACE}},
	})
	old := store.Load()
	before := describe(old)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 200 {
				if now := describe(old); now != before {
					t.Errorf("an old table changed to %s", now)
					return
				}
				describe(store.Load())
			}
		})
	}
	for i := range 200 {
		apply(t, store, state.Update{
			Addresses:        []*workload.Address{pod(fmt.Sprint("p", i%7), fmt.Sprintf("10.0.1.%d", i%9), behind("shop/web"))},
			RemovedAddresses: []string{fmt.Sprint("Kubernetes//Pod/shop/p", i%5), "Kubernetes//Pod/shop/a"},
			Policies:         []*security.Authorization{{Name: fmt.Sprint("p", i%3), Namespace: "shop", Scope: security.Scope(i % 3)}},
			RemovedPolicies:  []string{"shop/p"},
		})
	}
	readers.Wait()
}

func TestWaitReturnsTheFirstTableThatWillDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := state.NewStore()
		there := func(table *state.Table) bool { return table.ByPod("shop", "late", "sa-late") != nil }
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if table, err := store.Wait(t.Context(), there); err != nil || !there(table) {
				t.Errorf("Wait = %v, %v; want a table with the pod", table, err)
			}
		})
		changed := store.Changed()
		synctest.Wait()
		apply(t, store, state.Update{Addresses: []*workload.Address{pod("early", "10.0.0.1", nil)}})
		<-changed
		synctest.Wait()
		apply(t, store, state.Update{Addresses: []*workload.Address{pod("late", "10.0.0.2", nil)}})
		waiting.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Wait(ctx, func(*state.Table) bool { return false }); !errors.Is(err, context.Canceled) {
			t.Errorf("Wait with an ended context = %v", err)
		}
	})
}

func TestAddHoldsResourcesToTheirNames(t *testing.T) {
	encode := func(m proto.Message) []byte {
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	policy := encode(&security.Authorization{Namespace: "shop", Name: "p"})
	for _, test := range []struct {
		typeURL, name string
		body          []byte
		want          string
	}{
		{state.AddressType, "Kubernetes//Pod/shop/a", encode(pod("a", "10.0.0.1", nil)), ""},
		{state.AddressType, "shop/web", encode(service("shop", "web", "", nil)), ""},
		{state.AuthorizationType, "shop/p", policy, ""},
		{state.AddressType, "b", encode(pod("a", "10.0.0.1", nil)), `"b"`},
		{state.AuthorizationType, "shop/q", policy, `"shop/q"`},
		{state.AddressType, "a/b/web", encode(service("a/b", "web", "", nil)), "slash"},
		{state.AuthorizationType, "a/b/p", encode(&security.Authorization{Namespace: "a/b", Name: "p"}), "slash"},
		{state.AddressType, "x", nil, "neither"},
		{state.AddressType, "x", []byte{0xff}, "decode"},
		{state.AuthorizationType, "x", []byte{0xff}, "decode"},
		{"else", "x", nil, `"else"`},
	} {
		var u state.Update
		err := u.Add(test.typeURL, test.name, test.body)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("Add(%s, %s) = %v, want %q", test.typeURL, test.name, err, test.want)
		}
		store := state.NewStore()
		if err := store.Apply(u); err != nil {
			t.Fatal(err)
		}
		table := store.Load()
		if added := len(table.Workloads()) + len(table.Services()) + len(table.Policies()); added != 0 != (test.want == "") {
			t.Errorf("Add(%s, %s) added %d", test.typeURL, test.name, added)
		}
	}
	var u state.Update
	if err := errors.Join(u.Remove(state.AddressType, "a", "b"), u.Remove(state.AuthorizationType, "c")); err != nil || len(u.RemovedAddresses) != 2 || len(u.RemovedPolicies) != 1 {
		t.Errorf("Remove made %+v, %v", &u, err)
	}
	if err := u.Remove("else"); err == nil {
		t.Error("Remove of an unknown type: want an error")
	}
}

// Who holds on to something by an address only has to look again when the turnover has changed.
func TestTurnoverTellsThatAnAddressMayHaveAnotherOwner(t *testing.T) {
	apply := func(s *state.Store, u state.Update) uint64 {
		t.Helper()
		if err := s.Apply(u); err != nil {
			t.Fatal(err)
		}
		return s.Load().Turnover()
	}
	put := func(addresses ...*workload.Address) state.Update { return state.Update{Addresses: addresses} }
	for name, c := range map[string]struct {
		change state.Update
		want   bool
	}{
		"another workload comes":         {put(pod("b", "10.0.0.2", nil)), false},
		"a service comes":                {put(service("shop", "a.shop", "10.1.0.1", nil)), false},
		"the same again":                 {put(pod("a", "10.0.0.1", nil)), false},
		"another version":                {put(pod("a", "10.0.0.1", func(w *workload.Workload) { w.CanonicalRevision = "v2" })), false},
		"an absent one is removed":       {state.Update{RemovedAddresses: []string{"Kubernetes//Pod/shop/c"}}, false},
		"it is removed":                  {state.Update{RemovedAddresses: []string{"Kubernetes//Pod/shop/a"}}, true},
		"another identity":               {put(pod("a", "10.0.0.1", func(w *workload.Workload) { w.ServiceAccount = "other" })), true},
		"another address":                {put(pod("a", "10.0.0.9", nil)), true},
		"another network":                {put(pod("a", "10.0.0.1", func(w *workload.Workload) { w.Network = "remote" })), true},
		"another workload's address too": {put(pod("b", "10.0.0.1", nil)), true},
	} {
		s := state.NewStore()
		before := apply(s, put(pod("a", "10.0.0.1", nil)))
		if got := apply(s, c.change) != before; got != c.want {
			t.Errorf("%s: turnover changes %v, want %v", name, got, c.want)
		}
	}
}

// A resource may be as long as a message, and everything else waits for it.
func TestLongListsAreReadInTimeByTheirLength(t *testing.T) {
	const length = 100_000 // compared with one another they take minutes
	w, s := &workload.Workload{Uid: "a"}, &workload.Service{Namespace: "shop", Hostname: "a"}
	single := uint32(32)
	for i := range length {
		addr := binary.BigEndian.AppendUint32(nil, uint32(i/2)) // each twice
		w.Addresses = append(w.Addresses, addr)
		w.AuthorizationPolicies = append(w.AuthorizationPolicies, fmt.Sprint("shop/", i/2))
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{Address: addr}, &workload.NetworkAddress{Address: addr, Length: &single})
	}
	store, began := state.NewStore(), time.Now()
	err := store.Apply(state.Update{Addresses: []*workload.Address{{Type: &workload.Address_Workload{Workload: w}}, {Type: &workload.Address_Service{Service: s}}}})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	table := store.Load()
	pod, service := table.Workload("a"), table.Service("shop", "a")
	for what, got := range map[string]int{"addresses": len(pod.Addresses), "policies": len(pod.Policies), "virtual addresses": len(service.VIPs), "ranges": len(service.CIDRs)} {
		if got != length/2 {
			t.Errorf("%d %s, want %d", got, what, length/2)
		}
	}
}
