package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// city is a mesh of so many pods: 10 to a service, 100 to a node, 1000 to a namespace, which has a waypoint for its
// services; a policy per service, and an entry and a route per ten of them. Further entries share their hosts: one per ten services
// in a namespace for all, and one per namespace.
func city(pods int) []model.Change {
	var changes []model.Change
	add := func(object model.Object) { changes = append(changes, model.Change{Key: object.Key(), Object: object}) }
	for i := range pods {
		add(house(i, true))
		if i%100 == 0 {
			add(&model.Node{Name: fmt.Sprint("node", i/100), Locality: model.Locality{Zone: "a"}})
			add(outskirts(i, 1))
			add(rival("common", i, true))
			add(sign(i, 1))
		}
		if i%10 == 0 {
			add(street(i, false))
			add(fence(i, model.Allow))
		}
		if i%1000 == 0 {
			add(&model.Namespace{Name: quarter(i), Binding: &model.Binding{Waypoint: model.Name{Namespace: quarter(i), Name: "waypoint"}}})
			add(gate(i, true))
			add(rival(quarter(i), i, true))
		}
	}
	return changes
}

func quarter(i int) string { return fmt.Sprint("ns", i/1000) }

func app(i int) model.Labels {
	return model.LabelsOf(map[string]string{"app": fmt.Sprint("app", i/10)})
}

func house(i int, ready bool) *model.Pod {
	return &model.Pod{
		Namespace: quarter(i), Name: fmt.Sprint("pod", i), Node: fmt.Sprint("node", i/100), ServiceAccount: "default", Ready: ready,
		Labels: model.LabelsOf(map[string]string{"app": fmt.Sprint("app", i/10), "tier": "backend"}), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
	}
}

func street(i int, near bool) *model.Service {
	return &model.Service{
		Namespace: quarter(i), Name: fmt.Sprint("app", i/10), Selector: app(i), NodeLocal: near, Ports: []model.ServicePort{{Port: 80, Target: 8080}},
		VIPs: []netip.Addr{netip.AddrFrom4([4]byte{13, byte(i >> 16), byte(i >> 8), byte(i)})},
	}
}

func fence(i int, action model.Action) *model.AuthorizationPolicy {
	return &model.AuthorizationPolicy{Namespace: quarter(i), Name: fmt.Sprint("app", i/10), Selected: true, Selector: app(i), Action: action}
}

func outskirts(i int, weight uint32) *model.ServiceEntry {
	return &model.ServiceEntry{
		Namespace: quarter(i), Name: fmt.Sprint("entry", i), Hosts: []string{fmt.Sprintf("entry%d.example.com", i)}, Resolution: model.ResolveStatic,
		Endpoints: []model.EntryEndpoint{{IP: netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), Weight: weight}},
	}
}

// rival claims hosts that others claim, too; which one of a namespace has them goes by age.
func rival(namespace string, i int, old bool) *model.ServiceEntry {
	e := outskirts(i, 1)
	e.Namespace, e.Name, e.Hosts = namespace, fmt.Sprint("rival", i), rivalled
	if !old {
		e.Created = time.Unix(1, 0)
	}
	return e
}

var rivalled = func() (hosts []string) {
	for i := range 16 {
		hosts = append(hosts, fmt.Sprintf("shared%d.example.com", i))
	}
	return hosts
}()

func sign(i int, weight uint32) *model.Route {
	service := model.ObjectRef{Kind: "Service", Name: street(i, false).Key().Name}
	return &model.Route{
		Kind: model.KindHTTPRoute, Namespace: quarter(i), Name: fmt.Sprint("app", i/10), Parents: []model.ParentRef{{ObjectRef: service}},
		Rules: []model.RouteRule{{Backends: []model.RouteBackend{{Ref: service, Port: 80, Weight: weight}}}},
	}
}

func gate(i int, ready bool) *model.Gateway {
	g := &model.Gateway{Namespace: quarter(i), Name: "waypoint", Class: "istio-waypoint"}
	if ready {
		g.Addresses = []model.GatewayAddress{{IP: netip.AddrFrom4([4]byte{12, 0, 0, 1})}}
	}
	return g
}

// events are changes of an object of each kind, back and forth.
var events = []struct {
	name  string
	every int // of the pods' numbers has one
	make  func(i int, odd bool) model.Object
}{
	{"pod", 1, func(i int, odd bool) model.Object { return house(i, odd) }},
	{"service", 10, func(i int, odd bool) model.Object { return street(i, !odd) }},
	{"policy", 10, func(i int, odd bool) model.Object {
		return fence(i, map[bool]model.Action{false: model.Deny, true: model.Allow}[odd])
	}},
	{"entry", 100, func(i int, odd bool) model.Object { return outskirts(i, map[bool]uint32{false: 2, true: 1}[odd]) }},
	{"entry of a host that others have, too", 100, func(i int, odd bool) model.Object { return rival("common", i, odd) }},
	{"namespace", 1000, func(i int, odd bool) model.Object {
		return &model.Namespace{Name: quarter(i), TrafficDistribution: map[bool]string{false: "PreferClose", true: ""}[odd], Binding: &model.Binding{Waypoint: model.Name{Namespace: quarter(i), Name: "waypoint"}}}
	}},
	{"route", 100, func(i int, odd bool) model.Object { return sign(i, map[bool]uint32{false: 2, true: 1}[odd]) }},
	{"waypoint", 1000, func(i int, odd bool) model.Object { return gate(i, odd) }},
}

// BenchmarkEvent: the cost of an event of each kind doesn't go by the size of the mesh, only by what depends on the
// object: all services of a namespace for its waypoint. The CPU includes the garbage collector's, and not what else the
// machine does.
func BenchmarkEvent(b *testing.B) {
	for _, event := range events {
		for _, pods := range []int{1000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/pods=%d", event.name, pods), func(b *testing.B) {
				p := emptyPipeline()
				p.apply(context.Background(), city(pods))
				b.ReportAllocs()
				before := spent(b)
				for i := 0; b.Loop(); i++ {
					object := event.make(i*event.every%pods, i*event.every/pods%2 != 0)
					p.apply(context.Background(), []model.Change{{Key: object.Key(), Object: object}})
				}
				b.ReportMetric(float64((spent(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// TestAnEventCostsNoMoreInALargerMesh goes by allocations, which don't depend on what else the machine does.
func TestAnEventCostsNoMoreInALargerMesh(t *testing.T) {
	small, large := emptyPipeline(), emptyPipeline()
	small.apply(context.Background(), city(1000))
	large.apply(context.Background(), city(10_000))
	for _, event := range events {
		cost := func(p *pipeline) float64 {
			odd := true
			return testing.AllocsPerRun(50, func() {
				odd = !odd
				object := event.make(0, odd)
				p.apply(context.Background(), []model.Change{{Key: object.Key(), Object: object}})
			})
		}
		if few, many := cost(small), cost(large); few == 0 || many > 1.5*few {
			t.Errorf("%s: %.0f allocations among 1,000 pods, %.0f among 10,000", event.name, few, many)
		}
	}
}

// BenchmarkStart: a mesh is read for the first time.
func BenchmarkStart(b *testing.B) {
	changes := city(10_000)
	for b.Loop() {
		emptyPipeline().apply(context.Background(), changes)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(changes)), "ns/object")
}

// BenchmarkMemory says what a pod costs in the model, with its share of all else, and in the rest of the pipeline.
func BenchmarkMemory(b *testing.B) {
	const pods = 100_000
	for b.Loop() {
		before := heap()
		m := emptyPipeline().model
		m.Apply(city(pods))
		objects := heap()
		b.ReportMetric(float64(objects-before)/pods, "B/pod-in-model")
		runtime.KeepAlive(m)

		p := emptyPipeline()
		before = heap()
		p.apply(context.Background(), city(pods))
		b.ReportMetric(float64(heap()-before)/pods, "B/pod")
		runtime.KeepAlive(p)
	}
}

// spent is the CPU time of this process.
func spent(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// heap is what is in use after everything else was let go.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
