package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
)

func emptyPipeline() *pipeline {
	settings := model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "cluster.local", AllowWaypoints: true}
	return newPipeline(model.New(settings), translate.Mesh{ClusterID: "Kubernetes"}, push.NewLog(), slog.New(slog.DiscardHandler))
}

// published is every resource's version by its name.
func (p *pipeline) published() map[string]string {
	all := make(map[string]string)
	for _, typeURL := range []string{push.Address, push.Authorization} {
		for _, resource := range p.log.All(typeURL) {
			all[typeURL+" "+resource.Name] = resource.Version
		}
	}
	return all
}

// dice throws objects of a small world, so that they often have to do with each other.
type dice struct{ *rand.Rand }

func (d dice) one(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) yes() bool { return d.IntN(2) == 0 }

func (d dice) labels() model.Labels {
	labels := map[string]string{}
	for _, key := range []string{"app", "version"} {
		if d.yes() {
			labels[key] = d.one("a", "b")
		}
	}
	return model.LabelsOf(labels)
}

func (d dice) namespace() string { return d.one("demo", "other", "istio-system") }

func (d dice) node() string { return d.one("node1", "node2") }

func (d dice) object() model.Object {
	namespace, name := d.namespace(), d.one("x", "y", "z")
	switch d.IntN(9) {
	case 0:
		return &model.Namespace{Name: namespace, TrafficDistribution: d.one("", "PreferClose")}
	case 1:
		return &model.Node{Name: d.node(), Locality: model.Locality{Zone: d.one("", "a", "b")}}
	case 2:
		return d.service(namespace, name)
	case 3:
		return d.slice(namespace, name)
	case 4:
		return &model.AuthorizationPolicy{
			Namespace: namespace, Name: name, Selected: d.yes(), Selector: d.labels(), Targeted: d.IntN(4) == 0,
			Action: model.Action(d.one("ALLOW", "DENY", "CUSTOM")),
		}
	case 5:
		return d.peer(namespace, name)
	case 6:
		return &model.Enrolment{Node: d.node(), Pods: map[model.Name]string{{Namespace: namespace, Name: name}: "1", {Namespace: "demo", Name: "x"}: d.one("1", "2")}}
	default:
		return d.pod(namespace, name)
	}
}

func (d dice) pod(namespace, name string) *model.Pod {
	return &model.Pod{
		Namespace: namespace, Name: name, UID: d.one("", "1"), Labels: d.labels(), Node: d.node(), ServiceAccount: d.one("s", "t"),
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(d.IntN(5))})}, Ended: d.IntN(5) == 0, Ready: d.yes(),
		Ports: []model.NamedPort{{Name: "web", Port: uint16(8080 + d.IntN(2))}},
	}
}

func (d dice) service(namespace, name string) *model.Service {
	s := &model.Service{Namespace: namespace, Name: name, Ports: []model.ServicePort{{Name: "web", Port: 80, TargetName: "web"}}}
	if d.yes() {
		s.Selector = d.labels()
	}
	return s
}

func (d dice) slice(namespace, name string) *model.EndpointSlice {
	s := &model.EndpointSlice{Namespace: namespace, Name: name, Service: d.one("x", "y"), Ports: []model.NamedPort{{Name: "web", Port: 9090}}}
	for range d.IntN(3) {
		e := model.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(d.IntN(3))})}, Ready: d.yes(), Node: d.node()}
		if d.yes() {
			e.Pod, e.PodUID = model.Name{Namespace: namespace, Name: d.one("x", "y")}, d.one("", "1")
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (d dice) peer(namespace, name string) *model.PeerAuthentication {
	p := &model.PeerAuthentication{
		Namespace: namespace, Name: name, Created: time.Unix(int64(d.IntN(3)), 0), Mode: model.MTLS(d.IntN(4)),
		Selected: d.yes(), Selector: d.labels(),
	}
	if p.Selected {
		p.Ports = map[uint16]model.MTLS{8080: model.MTLS(d.IntN(4))}
	}
	return p
}

// TestChangesLeadToWhatAFreshStartSees: following changes one after the other publishes the same as reading everything
// anew, so nothing that depends on a change is forgotten.
func TestChangesLeadToWhatAFreshStartSees(t *testing.T) {
	for seed := range uint64(20) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		followed, objects := emptyPipeline(), map[model.Key]model.Object{}
		for step := range 300 {
			var changes []model.Change
			for range 1 + d.IntN(3) {
				object := d.object()
				change := model.Change{Key: object.Key(), Object: object}
				if d.IntN(3) == 0 {
					change.Object = nil
					delete(objects, change.Key)
				} else {
					objects[change.Key] = object
				}
				changes = append(changes, change)
			}
			followed.apply(changes)

			fresh := emptyPipeline()
			var all []model.Change
			for key, object := range objects {
				all = append(all, model.Change{Key: key, Object: object})
			}
			fresh.apply(all)
			if diff := cmp.Diff(fresh.published(), followed.published()); diff != "" {
				t.Fatalf("seed %d, step %d, after %v (-fresh +followed):\n%s", seed, step, changes, diff)
			}
			if !maps.EqualFunc(fresh.produced, followed.produced, func(a, b []product) bool { return len(a) == len(b) }) {
				t.Fatalf("seed %d, step %d: another memory of what was produced", seed, step)
			}
		}
		// When all went, nothing is left.
		var gone []model.Change
		for key := range objects {
			gone = append(gone, model.Change{Key: key})
		}
		followed.apply(gone)
		if left := followed.published(); len(left) != 0 || len(followed.produced) != 0 || len(followed.noted) != 0 {
			t.Fatalf("seed %d: left %v, %v, %v", seed, left, followed.produced, followed.noted)
		}
	}
}

func TestAResourceThatCannotBeEncodedKeepsNoOtherBack(t *testing.T) {
	p := emptyPipeline()
	var logged bytes.Buffer
	p.out = slog.New(slog.NewTextHandler(&logged, nil))
	good, bad := house(1, true), house(2, true)
	p.apply([]model.Change{{Key: bad.Key(), Object: bad}})
	before := p.published()
	broken := *bad
	broken.ServiceAccount = "not UTF-8: \xff"
	p.apply([]model.Change{{Key: broken.Key(), Object: &broken}, {Key: good.Key(), Object: good}})
	after := p.published()
	if len(after) != 2 || !p.ready.Load() {
		t.Errorf("published %v", after)
	}
	for name, version := range before {
		if after[name] != version {
			t.Errorf("%s changed", name)
		}
	}
	if !strings.Contains(logged.String(), "Pod/ns0/pod2") {
		t.Errorf("logged %s", logged.String())
	}
}

// city is a mesh of so many pods: 10 to a service, 100 to a node, 1000 to a namespace, and a policy per service.
func city(pods int) []model.Change {
	var changes []model.Change
	add := func(object model.Object) { changes = append(changes, model.Change{Key: object.Key(), Object: object}) }
	for i := range pods {
		namespace, app := fmt.Sprint("ns", i/1000), fmt.Sprint("app", i/10)
		add(house(i, true))
		if i%100 == 0 {
			add(&model.Node{Name: fmt.Sprint("node", i/100), Locality: model.Locality{Zone: "a"}})
		}
		if i%10 == 0 {
			add(&model.Service{Namespace: namespace, Name: app, Selector: model.LabelsOf(map[string]string{"app": app}), Ports: []model.ServicePort{{Port: 80, Target: 8080}}})
			add(&model.AuthorizationPolicy{Namespace: namespace, Name: app, Selected: true, Selector: model.LabelsOf(map[string]string{"app": app}), Action: model.Allow})
		}
	}
	return changes
}

func house(i int, ready bool) *model.Pod {
	return &model.Pod{
		Namespace: fmt.Sprint("ns", i/1000), Name: fmt.Sprint("pod", i), Node: fmt.Sprint("node", i/100), ServiceAccount: "default", Ready: ready,
		Labels: model.LabelsOf(map[string]string{"app": fmt.Sprint("app", i/10), "tier": "backend"}), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
	}
}

// BenchmarkOnePodChanges: the cost of an event doesn't go by the size of the mesh.
func BenchmarkOnePodChanges(b *testing.B) {
	for _, pods := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			p := emptyPipeline()
			p.apply(city(pods))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				pod := house(i%pods, (i/pods)%2 != 0)
				p.apply([]model.Change{{Key: pod.Key(), Object: pod}})
			}
		})
	}
}

// BenchmarkStart: a mesh is read for the first time.
func BenchmarkStart(b *testing.B) {
	changes := city(10_000)
	for b.Loop() {
		emptyPipeline().apply(changes)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(changes)), "ns/object")
}
