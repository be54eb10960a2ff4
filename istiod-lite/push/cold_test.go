package push

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/mem"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// cold is a stream whose proxy knows nothing and reads nothing: what gRPC would send is kept, as a connection does whose
// window is full.
type cold struct {
	*line
	taken func(mem.BufferSlice)
}

func (c cold) SendMsg(message any) error {
	buffers, err := codec{}.Marshal(message)
	if err == nil {
		c.taken(buffers)
	}
	return err
}

// meshOf publishes n pods, ten behind each service.
func meshOf(tb testing.TB, n int) *Log {
	log := NewLog()
	var updates []Update
	for i := range n {
		host := fmt.Sprintf("svc-%d.shop.svc.cluster.local", i/10)
		w := &workload.Workload{
			Uid: fmt.Sprintf("Kubernetes//Pod/shop/pod-%d-7d9c5f6b8-x2x4q", i), Name: fmt.Sprintf("pod-%d-7d9c5f6b8-x2x4q", i), Namespace: "shop",
			Addresses:      [][]byte{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).AsSlice()},
			TunnelProtocol: workload.TunnelProtocol_HBONE, ServiceAccount: "shop", Node: fmt.Sprintf("node-%d", i%100),
			CanonicalName: "app", CanonicalRevision: "v1", WorkloadName: "app", ClusterId: "Kubernetes",
			Services: map[string]*workload.PortList{"shop/" + host: {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}},
		}
		updates = append(updates, Update{Address, w.Uid, &workload.Address{Type: &workload.Address_Workload{Workload: w}}})
		if i%10 == 0 {
			s := &workload.Service{Name: fmt.Sprint("svc-", i/10), Namespace: "shop", Hostname: host, Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}
			updates = append(updates, Update{Address, "shop/" + host, &workload.Address{Type: &workload.Address_Service{Service: s}}})
		}
	}
	if _, failures := log.Publish(updates); len(failures) > 0 {
		tb.Fatal(failures)
	}
	return log
}

func heap() float64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc) / (1 << 20)
}

// BenchmarkColdProxies is what a hundred proxies cost that come at the same time, know nothing, and don't read yet.
func BenchmarkColdProxies(b *testing.B) {
	for _, pods := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint("pods=", pods), func(b *testing.B) {
			before := heap()
			log := meshOf(b, pods)
			resting := heap()
			b.ReportMetric(resting-before, "MiB-log")
			for b.Loop() {
				held, bytes := coldProxies(b, log, 100)
				b.ReportMetric(held-resting, "MiB-100-proxies")
				b.ReportMetric(bytes/(1<<20), "MiB-each-is-owed")
			}
		})
	}
}

// coldProxies connects proxies, and tells how large the heap is when each was handed everything, and how much that is.
func coldProxies(tb testing.TB, log *Log, count int) (held, bytes float64) {
	kept := handEverything(tb, log, count, func() { held = heap() })
	runtime.KeepAlive(kept)
	return held, float64(kept[0].Len())
}

// handEverything connects proxies that know nothing, and returns what each was handed. When all were, meanwhile is called
// before they go.
func handEverything(tb testing.TB, log *Log, count int, meanwhile func()) []mem.BufferSlice {
	var machines atomic.Int32
	server := NewServer(Config{
		Log: log, Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler), TrustedNodeAccounts: []string{"a/b"},
		Authenticate: func(context.Context) (Caller, error) {
			return Caller{"a", "b", "node1", "", fmt.Sprint(machines.Add(1))}, nil
		},
	})
	ctx, cancel := context.WithCancel(tb.Context())
	var lock sync.Mutex
	var kept []mem.BufferSlice
	var handed, streams sync.WaitGroup
	handed.Add(count)
	for range count {
		one := &line{ctx: ctx, up: make(chan *discoveryv3.DeltaDiscoveryRequest)}
		streams.Go(func() {
			_ = server.DeltaAggregatedResources(cold{one, func(buffers mem.BufferSlice) {
				lock.Lock()
				defer lock.Unlock()
				kept = append(kept, buffers)
				handed.Done()
			}})
		})
		one.up <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, Node: &corev3.Node{Id: "ztunnel~1"}}
	}
	handed.Wait()
	meanwhile()
	cancel()
	streams.Wait()
	server.Wait()
	return kept
}

// TestProxiesShareTheEncodingOfEachResource: what a hundred proxies are owed at once is in memory once, but for a few bytes
// around it.
func TestProxiesShareTheEncodingOfEachResource(t *testing.T) {
	const pods, proxies = 500, 100
	log := meshOf(t, pods)
	own := make(map[*byte]bool)
	for element := log.tables[Address].order.Front(); element != nil; element = element.Next() {
		own[&element.Value.(*entry).resource.field.ReadOnlyData()[0]] = true
	}
	for i, buffers := range handEverything(t, log, proxies, func() {}) {
		shared, others := 0, 0
		for _, buffer := range buffers {
			if data := buffer.ReadOnlyData(); own[&data[0]] {
				shared++
			} else {
				others += len(data)
			}
		}
		if shared != len(own) || others > 256 {
			t.Fatalf("proxy %d shares %d of %d resources, and has %d bytes of its own", i, shared, len(own), others)
		}
	}
}
