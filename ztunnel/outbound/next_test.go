package outbound

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// crowd has several endpoints of everything.
const crowd = `
workloads:
- {uid: client, name: client, namespace: demo, workloadIps: [10.0.0.1], protocol: HBONE, node: n1}
- {uid: a, name: a, namespace: demo, workloadIps: [10.0.0.2], protocol: HBONE, node: n1, services: {"demo/near.demo": {80: 80}, "demo/few.demo": {80: 80}}}
- {uid: b, name: b, namespace: demo, workloadIps: [10.0.0.3], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}, "demo/few.demo": {80: 80}}}
- {uid: c, name: c, namespace: demo, workloadIps: [10.0.0.4], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}}}
- {uid: d, name: d, namespace: demo, workloadIps: [10.0.0.5], protocol: HBONE, node: n2, services: {"demo/near.demo": {80: 80}}}
- {uid: w, name: w, namespace: demo, workloadIps: [10.0.0.6], protocol: HBONE, services: {"demo/wp.demo": {15008: 15008}}}
- {uid: v, name: v, namespace: demo, workloadIps: [10.0.0.7], protocol: HBONE, services: {"demo/wp.demo": {15008: 15008}}}
- {uid: x, name: x, namespace: demo, workloadIps: [10.0.0.8], protocol: HBONE, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}}
- {uid: far, name: far, namespace: demo, network: west, protocol: HBONE, services: {"demo/far.demo": {80: 80}}, networkGateway: {destination: demo/gw.demo, hboneMtlsPort: 15008}}
- {uid: g, name: g, namespace: demo, workloadIps: [1.2.3.4], network: west, protocol: HBONE, services: {"demo/gw.demo": {15008: 15008}}}
- {uid: h, name: h, namespace: demo, workloadIps: [1.2.3.5], network: west, protocol: HBONE, services: {"demo/gw.demo": {15008: 15008}}}
services:
- {name: near, namespace: demo, hostname: near.demo, vips: [/10.1.0.1], ports: {80: 80}, loadBalancer: {mode: Failover, routingPreferences: [Node]}}
- {name: few, namespace: demo, hostname: few.demo, vips: [/10.1.0.2], ports: {80: 80}}
- {name: wp, namespace: demo, hostname: wp.demo, vips: [], ports: {15008: 15008}}
- {name: via, namespace: demo, hostname: via.demo, vips: [/10.1.0.3], ports: {80: 80}, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}}
- {name: far, namespace: demo, hostname: far.demo, vips: [/10.1.0.4], ports: {80: 80}, subjectAltNames: ["spiffe://west/ns/demo/sa/far"]}
- {name: gw, namespace: demo, hostname: gw.demo, vips: [], ports: {15008: 15008}}
`

// TestNextEndpoint follows a connection whose endpoints all refuse.
func TestNextEndpoint(t *testing.T) {
	world := tableOf(t, crowd)
	for _, test := range []struct {
		name, to, want string // each attempt's possible workloads
	}{
		{"the nearest first, then others, three in all", "10.1.0.1:80", "a bcd bcd"},
		{"no more than there are", "10.1.0.2:80", "ab ab"},
		{"other instances of a service's waypoint, never round it", "10.1.0.3:80", "vw vw"},
		{"other instances of a pod's waypoint, never round it", "10.0.0.8:80", "vw vw"},
		{"other gateways of the network", "10.1.0.4:80", "gh gh"},
		{"no other than the pod that was dialled", "10.0.0.2:80", "a"},
		{"no other than the unknown address that was dialled", "192.0.2.1:80", "-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make([]map[string]bool, maxAttempts+1)
			for range 200 {
				call := callTo(world, "client", test.to)
				chosen := map[string]bool{}
				r, err := call.Decide()
				for i := 0; err == nil; i++ {
					uid := "-"
					if r.Workload != nil {
						uid = r.Workload.UID
					}
					if chosen[uid] {
						t.Fatalf("%s is tried twice", uid)
					}
					chosen[uid] = true
					if seen[i] == nil {
						seen[i] = map[string]bool{}
					}
					seen[i][uid] = true
					r, err = call.Next(&r)
				}
			}
			var got []string
			for _, uids := range seen {
				if uids != nil {
					got = append(got, strings.Join(slices.Sorted(maps.Keys(uids)), ""))
				}
			}
			if text := strings.Join(got, " "); text != test.want {
				t.Errorf("tried %s, want %s", text, test.want)
			}
		})
	}
}

func TestNextHeedsTheNewestState(t *testing.T) {
	old := tableOf(t, crowd)
	call := callTo(old, "client", "10.1.0.2:80")
	r, err := call.Decide()
	if err != nil {
		t.Fatal(err)
	}
	call.Table = tableOf(t, strings.Replace(crowd, "vips: [/10.1.0.2], ports: {80: 80}", "vips: [/10.1.0.2], ports: {80: 80}, waypoint: {destination: demo/wp.demo, hboneMtlsPort: 15008}", 1))
	if r, err = call.Next(&r); err != nil || r.Kind != Waypoint {
		t.Errorf("the service has a waypoint now, and the next route is %s, %v", show(r), err)
	}
}

func TestBusyEndpointsGetLess(t *testing.T) {
	world, open := tableOf(t, crowd), new(balance.Open)
	counts := map[string]int{}
	for range 100 {
		call := callTo(world, "client", "10.1.0.2:80")
		call.Open = open
		r, err := call.Decide()
		if err != nil {
			t.Fatal(err)
		}
		r.Count(open, 1)
		counts[r.Workload.UID]++
	}
	if counts["a"] < 40 || counts["b"] < 40 {
		t.Errorf("open connections %v, want them about equal", counts)
	}
	for uid, n := range counts {
		r := Route{Workload: world.Workload(uid)}
		r.Count(open, -n)
		if left := open.Count(r.Workload); left != 0 {
			t.Errorf("%d connections to %s are left", left, uid)
		}
	}
}

// What has failed for one call is avoided by others, if they have a choice.
func TestOtherCallsShunWhatFailed(t *testing.T) {
	world := tableOf(t, crowd)
	for _, test := range []struct{ name, to, pair string }{
		{"an endpoint", "10.1.0.2:80", "ab"},
		{"a waypoint's instance", "10.1.0.3:80", "vw"},
		{"a gateway of another network", "10.1.0.4:80", "gh"},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := new(balance.Open)
			decide := func() (*Call, Route) {
				call := callTo(world, "client", test.to)
				call.Open = open
				r, err := call.Decide()
				if err != nil {
					t.Fatal(err)
				}
				return call, r
			}
			call, failed := decide()
			if _, err := call.Next(&failed); err != nil {
				t.Fatal(err)
			}
			other := strings.Trim(test.pair, failed.Workload.UID)
			for range 50 {
				if _, r := decide(); r.Workload.UID != other {
					t.Fatalf("%s was chosen although it has just failed", r.Workload.UID)
				}
			}
		})
	}
}

// Decisions are made on many threads while the mesh changes under them.
func TestDecideWhileTheMeshChanges(t *testing.T) {
	update, err := state.Read([]byte(crowd))
	if err != nil {
		t.Fatal(err)
	}
	store, open := state.NewStore(), new(balance.Open)
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	var deciding, changing sync.WaitGroup
	stop := make(chan struct{})
	changing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := store.Apply(state.Update{Addresses: update.Addresses[i%len(update.Addresses):][:1]}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 4 {
		deciding.Go(func() {
			for range 200 {
				call := callTo(store.Load(), "client", "10.1.0.1:80")
				call.Open = open
				r, err := call.Decide()
				for ; err == nil; r, err = call.Next(&r) {
					r.Count(open, 1)
					r.Count(open, -1)
					call.Table = store.Load()
				}
				if !errors.Is(err, errAlternative) {
					t.Error(err)
					return
				}
			}
		})
	}
	deciding.Wait()
	close(stop)
	changing.Wait()
	for _, w := range store.Load().Workloads() {
		if n := open.Count(w); n != 0 {
			t.Errorf("%d connections to %s are left", n, w.UID)
		}
	}
}
