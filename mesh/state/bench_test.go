package state

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// meshOf returns n pods, ten behind each service, and a store that holds them.
func meshOf(n int) (*Store, []*workload.Address) {
	var u Update
	var pods []*workload.Address
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		service := fmt.Sprintf("shop/svc-%d.shop.svc.cluster.local", i/10)
		pods = append(pods, &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
			Uid: fmt.Sprintf("Kubernetes//Pod/shop/pod-%d", i), Name: fmt.Sprintf("pod-%d", i), Namespace: "shop",
			Addresses: [][]byte{ip.AsSlice()}, TunnelProtocol: workload.TunnelProtocol_HBONE,
			Services: map[string]*workload.PortList{service: {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}},
		}}})
		if i%10 == 0 {
			vip := netip.AddrFrom4([4]byte{172, byte(i >> 16), byte(i >> 8), byte(i)})
			u.Addresses = append(u.Addresses, &workload.Address{Type: &workload.Address_Service{Service: &workload.Service{
				Namespace: "shop", Hostname: fmt.Sprintf("svc-%d.shop.svc.cluster.local", i/10),
				Addresses: []*workload.NetworkAddress{{Address: vip.AsSlice()}},
				Ports:     []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
			}}})
		}
	}
	u.Addresses = append(u.Addresses, pods...)
	store := NewStore()
	if err := store.Apply(u); err != nil {
		panic(err)
	}
	return store, pods
}

// BenchmarkUpdate is the cost of one changed workload, which should not depend on how many there are.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			store, pods := meshOf(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := store.Apply(Update{Addresses: pods[i%n : i%n+1]}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLargeService is the cost of one changed workload of a service that has all of them, with and without a
// reader who wants the endpoints after each change.
func BenchmarkLargeService(b *testing.B) {
	const n = 10_000
	_, pods := meshOf(n)
	for _, pod := range pods {
		pod.GetWorkload().Services = map[string]*workload.PortList{"shop/all": {}}
	}
	store := NewStore()
	all := &workload.Service{Namespace: "shop", Hostname: "all"}
	u := Update{Addresses: append(pods, &workload.Address{Type: &workload.Address_Service{Service: all}})}
	if err := store.Apply(u); err != nil {
		b.Fatal(err)
	}
	for _, read := range []bool{false, true} {
		b.Run(fmt.Sprintf("read=%v", read), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if err := store.Apply(Update{Addresses: pods[i%n : i%n+1]}); err != nil {
					b.Fatal(err)
				}
				if read {
					table := store.Load()
					if len(table.Endpoints(table.Service("shop", "all"))) != n {
						b.Fatal("endpoints are missing")
					}
				}
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	store, _ := meshOf(100_000)
	table := store.Load()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if w, _ := table.Find("", ip, "shop"); w == nil {
			b.Fatalf("%s is not there", ip)
		}
	}
}

// BenchmarkLoad is the cost of a first push, per workload.
func BenchmarkLoad(b *testing.B) {
	const n = 100_000
	_, pods := meshOf(n)
	for b.Loop() {
		if err := NewStore().Apply(Update{Addresses: pods}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/workload")
}
