package state_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// describe asks a table everything that the tests of order know of and returns the answers as text.
func describe(table *state.Table) string {
	var text strings.Builder
	for _, w := range table.Workloads() {
		policies, missing := policiesFor(table, w)
		pod := table.ByPod(w.Namespace, w.Name, w.ServiceAccount)
		fmt.Fprintf(&text, "%s %v pod %s host %v policies", w.UID, w.Addresses, pod.UID, uidOf(table.WorkloadByHost(w.Namespace, w.Hostname)))
		for _, p := range policies {
			fmt.Fprintf(&text, " %s %d", p.Key(), p.Action)
		}
		fmt.Fprintf(&text, " missing %q\n", missing)
	}
	for _, s := range table.Services() {
		var list []string
		for _, e := range table.Endpoints(s) {
			list = append(list, fmt.Sprint(e.Workload.UID, e.Ports))
		}
		slices.Sort(list)
		fmt.Fprintf(&text, "%s %v %v endpoints %v", s.Key(), s.VIPs, s.CIDRs, list)
		for _, same := range table.ServicesByHost(s.Hostname) {
			fmt.Fprintf(&text, " %s", same.Key())
		}
		fmt.Fprintln(&text)
	}
	for _, network := range []string{"", "west"} {
		for i := range 12 {
			for _, client := range []string{"a", "b", "c"} {
				w, s := table.Find(network, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), client)
				fmt.Fprintf(&text, "%s/10.0.0.%d from %s: %s %s\n", network, i, client, uidOf(w), nameOf(s))
			}
		}
	}
	return text.String()
}

func uidOf(w *state.Workload) string {
	if w == nil {
		return ""
	}
	return w.UID
}

// world makes resources whose names, addresses, hosts and policies collide a lot.
type world struct{ *rand.Rand }

func (r world) one(list ...string) string { return list[r.IntN(len(list))] }

func (r world) address() []byte { return []byte{10, 0, 0, byte(r.IntN(12))} }

func (r world) workload() *workload.Address {
	name := r.one("p", "q", "r", "s")
	uid := r.one("c1//Pod/", "c2//Pod/", "c1/networking.istio.io/WorkloadEntry/") + "a/" + name
	w := &workload.Workload{
		Uid: uid, Name: name, Namespace: r.one("a", "b"), Network: r.one("", "", "west"), Hostname: r.one("", "h"),
		TunnelProtocol: workload.TunnelProtocol(r.IntN(2)), Status: workload.WorkloadStatus(r.IntN(2)), NetworkMode: workload.NetworkMode(r.IntN(8) / 7),
		Services: map[string]*workload.PortList{},
	}
	for range r.IntN(3) {
		w.Addresses = append(w.Addresses, r.address())
		w.Services[r.one("a", "b")+"/"+r.one("x", "y")] = &workload.PortList{Ports: []*workload.Port{{ServicePort: 80, TargetPort: uint32(r.IntN(3))}}}
		w.AuthorizationPolicies = append(w.AuthorizationPolicies, r.one("a", "b")+"/"+r.one("p1", "p2"))
	}
	return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
}

func (r world) service() *workload.Address {
	s := &workload.Service{
		Namespace: r.one("a", "b", "c"), Hostname: r.one("x", "y"), Canonical: r.IntN(3) == 0, Visibility: workload.ServiceVisibility(r.IntN(2)),
		LoadBalancing: &workload.LoadBalancing{HealthPolicy: workload.LoadBalancing_HealthPolicy(r.IntN(2))},
	}
	for range r.IntN(4) {
		vip := &workload.NetworkAddress{Network: r.one("", "", "west"), Address: r.address()}
		if r.IntN(2) == 0 {
			vip.Length = proto.Uint32(uint32(24 + r.IntN(9)))
		}
		s.Addresses = append(s.Addresses, vip)
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

func (r world) policy() *security.Authorization {
	return &security.Authorization{
		Namespace: r.one("a", "b"), Name: r.one("p1", "p2", "p3"), Scope: security.Scope(r.IntN(3)), Action: security.Action(r.IntN(2)),
	}
}

// final makes one resource per name: their order must not matter.
func (r world) final() (addresses []*workload.Address, policies []*security.Authorization) {
	seen := map[string]bool{}
	for range 25 {
		for _, a := range []*workload.Address{r.workload(), r.service()} {
			if name := a.GetWorkload().GetUid() + a.GetService().GetNamespace() + "/" + a.GetService().GetHostname(); !seen[name] {
				seen[name] = true
				addresses = append(addresses, a)
			}
		}
		if p := r.policy(); !seen["policy "+p.GetNamespace()+p.GetName()] {
			seen["policy "+p.GetNamespace()+p.GetName()] = true
			policies = append(policies, p)
		}
	}
	return addresses, policies
}

func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	for seed := range uint64(150) {
		r := world{rand.New(rand.NewPCG(seed, 0))}
		addresses, policies := r.final()
		once := state.NewStore()
		apply(t, once, state.Update{Addresses: addresses, Policies: policies})
		want := describe(once.Load())

		store := state.NewStore()
		// What was there before must leave no trace either.
		for range r.IntN(40) {
			apply(t, store, state.Update{Addresses: []*workload.Address{r.workload(), r.service()}, Policies: []*security.Authorization{r.policy()}})
		}
		table := store.Load()
		var stale state.Update
		for _, w := range table.Workloads() {
			stale.RemovedAddresses = append(stale.RemovedAddresses, w.UID)
		}
		for _, s := range table.Services() {
			stale.RemovedAddresses = append(stale.RemovedAddresses, s.Key().String())
		}
		for _, p := range table.Policies() {
			stale.RemovedPolicies = append(stale.RemovedPolicies, p.Key().String())
		}
		apply(t, store, stale)
		r.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
		r.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		for len(addresses)+len(policies) > 0 {
			a, p := r.IntN(len(addresses)+1), r.IntN(len(policies)+1)
			apply(t, store, state.Update{Addresses: addresses[:a], Policies: policies[:p]})
			addresses, policies = addresses[a:], policies[p:]
		}
		if got := describe(store.Load()); got != want {
			t.Fatalf("seed %d: one by one\n%s\nat once\n%s", seed, got, want)
		}
	}
}
