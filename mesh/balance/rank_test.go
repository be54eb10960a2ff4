package balance_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// naiveRank says how well a workload fits the client's preferences, -1 if it doesn't do, by counting.
func naiveRank(svc *state.Service, from, w *state.Workload) int {
	has := map[state.Preference]bool{
		state.PreferRegion: from.Locality.Region == w.Locality.Region, state.PreferZone: from.Locality.Zone == w.Locality.Zone,
		state.PreferSubzone: from.Locality.Subzone == w.Locality.Subzone, state.PreferNode: from.Node == w.Node,
		state.PreferCluster: from.ClusterID == w.ClusterID, state.PreferNetwork: from.Network == w.Network,
	}
	local := from.Network == w.Network
	addressed := slices.ContainsFunc(w.Addresses, svc.IPFamilies.Permit) || w.Hostname != ""
	if w.Capacity == 0 || !w.Healthy && !svc.LoadBalancing.AnyHealth || local && !addressed || !local && w.NetworkGateway == nil {
		return -1
	}
	wanted := svc.LoadBalancing.Preferences
	switch svc.LoadBalancing.Mode {
	case state.ModeAny:
		return 0
	case state.ModeStrict:
		for _, p := range wanted {
			if !has[p] {
				return -1
			}
		}
		return 0 // those that are left match alike
	}
	bonus := 0
	if len(wanted) > 0 && wanted[0] == state.PreferNetwork {
		if has[state.PreferNetwork] {
			bonus = 100
		}
		wanted = wanted[1:]
	}
	matched := 0
	for matched < len(wanted) && has[wanted[matched]] {
		matched++
	}
	return bonus + matched
}

// randomService and its endpoints differ in everything that ranking looks at.
func randomService(r *rand.Rand) []*workload.Address {
	one := func(options ...string) string { return options[r.IntN(len(options))] }
	lb := &workload.LoadBalancing{
		Mode:         []workload.LoadBalancing_Mode{0, strict, failover, failover}[r.IntN(4)],
		HealthPolicy: workload.LoadBalancing_HealthPolicy(r.IntN(2)),
	}
	for _, scope := range r.Perm(6)[:r.IntN(5)] {
		lb.RoutingPreference = append(lb.RoutingPreference, workload.LoadBalancing_Scope(scope+1))
	}
	list := []*workload.Address{web(families(workload.IPFamilies(r.IntN(4))), func(s *workload.Service) { s.LoadBalancing = lb })}
	for i := range r.IntN(12) {
		list = append(list, pod(fmt.Sprint("p", i), one("", fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("fd00::%d", i+1)), func(w *workload.Workload) {
			w.Locality = &workload.Locality{Region: one("r", "r", "q"), Zone: one("z", "z", "y"), Subzone: one("", "s")}
			w.Node, w.ClusterId, w.Hostname = one("n", "m"), one("Kubernetes", "other"), one("", "", "x.example")
			if r.IntN(4) == 0 {
				sick(w)
			}
			if r.IntN(3) == 0 {
				network("west", r.IntN(2) == 0)(w)
			}
			capacity(uint32(r.IntN(3)))(w)
		}))
	}
	return list
}

// TestRankingIsTheNaiveOne takes all endpoints of random services, one after the other: they have to come by rank, as simple
// counting says, and all that will do.
func TestRankingIsTheNaiveOne(t *testing.T) {
	for seed := range uint64(500) {
		addresses := randomService(rand.New(rand.NewPCG(seed, seed)))
		table := tableOf(t, addresses...)
		svc := table.Service("shop", "web")
		want := map[int]int{}
		for _, w := range table.Workloads() {
			want[naiveRank(svc, client, w)]++
		}
		delete(want, -1)
		from := caller(table, v4)
		for last := 1000; ; {
			choice, err := from.Pick(svc, 80)
			if errors.Is(err, balance.ErrNoEndpoint) {
				break
			}
			rank := naiveRank(svc, client, choice.Workload)
			if rank < 0 || rank > last || slices.Contains(from.Tried, choice.Workload.UID) {
				t.Fatalf("seed %d: %s of rank %d comes after %v of rank %d; %v", seed, choice.Workload.UID, rank, from.Tried, last, addresses)
			}
			if want[rank]--; want[rank] == 0 {
				delete(want, rank)
			}
			last = rank
			from.Tried = append(from.Tried, choice.Workload.UID)
		}
		if len(want) > 0 {
			t.Fatalf("seed %d: endpoints by rank %v never came; %v", seed, want, addresses)
		}
	}
}

// TestRankingsOfManyClients asks for more rankings than are kept, at once.
func TestRankingsOfManyClients(t *testing.T) {
	table := tableOf(t, web(mode(failover, byNode)), pod("a", "10.0.0.1", in("r", "z", "n0")), pod("b", "10.0.0.2", in("r", "z", "n1")))
	svc := table.Service("shop", "web")
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			from := caller(table, v4)
			from.From = &state.Workload{Namespace: "shop", Node: fmt.Sprint("n", i)}
			for range 20 {
				choice, err := from.Pick(svc, 80)
				if err != nil || i == 0 && choice.Workload.Name != "a" || i == 1 && choice.Workload.Name != "b" {
					t.Errorf("node n%d gets %v, %v", i, choice.Workload, err)
				}
			}
		})
	}
	wait.Wait()
}

func TestNewEndpointIsSeenAtOnce(t *testing.T) {
	store := state.NewStore()
	apply := func(list ...*workload.Address) *state.Table {
		if err := store.Apply(state.Update{Addresses: list}); err != nil {
			t.Fatal(err)
		}
		return store.Load()
	}
	pick := func(table *state.Table) string {
		return outcomes(func() (balance.Choice, error) { return caller(table, v4).Pick(table.Service("shop", "web"), 80) })
	}
	first := apply(web(), pod("a", "10.0.0.1"))
	pick(first)
	second := apply(pod("b", "10.0.0.2"))
	if got := pick(second); got != "a 10.0.0.1:8080, b 10.0.0.2:8080" {
		t.Errorf("after b came: %s", got)
	}
	if got := pick(apply(web(servicePorts(80, 9000)), pod("a", "10.0.0.1", ports()))); !strings.Contains(got, "a 10.0.0.1:9000") {
		t.Errorf("after the service's port moved: %s", got)
	}
	if got := pick(first); got != "a 10.0.0.1:8080" {
		t.Errorf("the older table now says %s", got)
	}
}

// BenchmarkFirstPick is the first choice after a change of the service, which ranks all endpoints.
func BenchmarkFirstPick(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		list := []*workload.Address{web(mode(failover, byNetwork, byRegion, byZone))}
		for i := range n {
			list = append(list, pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), in("r", []string{"x", "y", "z"}[i%3], "elsewhere")))
		}
		table := tableOf(b, list...)
		svc := table.Service("shop", "web")
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			from := caller(table, v4)
			i := 0
			for b.Loop() {
				i++
				from.From = &state.Workload{Namespace: "shop", Node: fmt.Sprint("n", i), Locality: client.Locality} // nobody has asked for it
				if _, err := from.Pick(svc, 80); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
