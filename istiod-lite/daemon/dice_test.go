package daemon

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// dice throws objects of a small world, so that they often have to do with each other.
type dice struct{ *rand.Rand }

func (d dice) one(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) yes() bool { return d.IntN(2) == 0 }

func (d dice) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "version"} {
		if d.yes() {
			labels[key] = d.one("a", "b")
		}
	}
	return labels
}

func (d dice) selector() model.Labels { return model.LabelsOf(d.labels()) }

// marked are labels that may say something of waypoints.
func (d dice) marked() map[string]string {
	labels := d.labels()
	if d.IntN(3) == 0 {
		labels["istio.io/use-waypoint"] = d.one("x", "y", "none")
		labels["istio.io/use-waypoint-namespace"] = d.one("", "demo", "other")
		labels["istio.io/use-waypoint-canary"] = d.one("", "x", "y")
	}
	if d.IntN(4) == 0 {
		labels["istio.io/ingress-use-waypoint"] = d.one("true", "false")
	}
	return labels
}

func binding(namespace string, labels map[string]string, weight string) *model.Binding {
	return model.BindingOf(namespace, func(key string) string { return labels[key] }, weight)
}

func (d dice) namespace() string { return d.one("demo", "other", "istio-system") }

func (d dice) node() string { return d.one("node1", "node2") }

func (d dice) time() time.Time { return time.Unix(int64(d.IntN(3)), 0) }

func (d dice) address(net byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, net, 0, byte(d.IntN(5))})
}

func (d dice) object() model.Object {
	namespace, name := d.namespace(), d.one("x", "y", "z")
	throws := []func(namespace, name string) model.Object{
		d.meshConfig, d.namespaceObject, d.nodeObject, d.pod, d.pod, d.pod, d.service, d.service, d.slice, d.entry, d.entry,
		d.workloadEntry, d.gateway, d.gateway, d.class, d.policy, d.peer, d.enrolment,
	}
	return throws[d.IntN(len(throws))](namespace, name)
}

func (d dice) meshConfig(namespace, _ string) model.Object {
	c := &model.MeshConfig{Namespace: namespace, Name: "istio", TrustDomain: d.one("", "example.org"), RootNamespace: d.one("", "other")}
	if d.yes() {
		c.EntryVisibility = &model.EntryVisibility{
			Default: model.Visibility(d.IntN(3)),
			Rules:   []model.VisibilityRule{{Visibility: model.Visibility(d.IntN(3)), Namespaces: []model.Selector{{Labels: d.selector()}}}},
		}
	}
	return c
}

func (d dice) namespaceObject(namespace, _ string) model.Object {
	labels := d.marked()
	labels["topology.istio.io/network"] = d.one("", "near", "far")
	return &model.Namespace{
		Name: namespace, Labels: model.LabelsOf(labels), Binding: binding(namespace, labels, d.one("", "20")), TrafficDistribution: d.one("", "PreferClose"),
	}
}

func (d dice) nodeObject(_, _ string) model.Object {
	return &model.Node{Name: d.node(), Locality: model.Locality{Zone: d.one("", "a", "b")}}
}

func (d dice) enrolment(namespace, name string) model.Object {
	return &model.Enrolment{Node: d.node(), Pods: map[model.Name]string{{Namespace: namespace, Name: name}: "1", {Namespace: "demo", Name: "x"}: d.one("1", "2")}}
}

func (d dice) pod(namespace, name string) model.Object {
	labels := d.marked()
	if d.IntN(3) == 0 {
		labels["gateway.networking.k8s.io/gateway-name"] = d.one("x", "y")
	}
	return &model.Pod{
		Namespace: namespace, Name: name, UID: d.one("", "1"), Labels: model.LabelsOf(labels), Node: d.node(), ServiceAccount: d.one("s", "t"),
		IPs: []netip.Addr{d.address(0)}, Ended: d.IntN(5) == 0, Ready: d.yes(), Redirected: d.yes(),
		Ports: []model.NamedPort{{Name: "web", Port: uint16(8080 + d.IntN(2))}},
	}
}

func (d dice) service(namespace, name string) model.Object {
	s := &model.Service{
		Namespace: namespace, Name: name, Binding: binding(namespace, d.marked(), d.one("", "20", "x")),
		Ports: []model.ServicePort{{Name: "web", Port: 80, TargetName: "web"}},
	}
	if d.yes() {
		s.Selector = d.selector()
	}
	return s
}

func (d dice) slice(namespace, name string) model.Object {
	s := &model.EndpointSlice{Namespace: namespace, Name: name, Service: d.one("x", "y"), Ports: []model.NamedPort{{Name: "web", Port: 9090}}}
	for range d.IntN(3) {
		e := model.Endpoint{Addresses: []netip.Addr{d.address(1)}, Ready: d.yes(), Node: d.node()}
		if d.yes() {
			e.Pod, e.PodUID = model.Name{Namespace: namespace, Name: d.one("x", "y")}, d.one("", "1")
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (d dice) endpoint() model.EntryEndpoint {
	return model.EntryEndpoint{
		IP: d.address(2), Network: d.one("", "", "near", "far"), Labels: d.selector(), Ports: []model.NamedPort{{Name: "web", Port: uint16(7070 + d.IntN(2))}},
		ServiceAccount: d.one("", "s"), Weight: uint32(d.IntN(2)),
	}
}

func (d dice) entry(namespace, name string) model.Object {
	e := &model.ServiceEntry{
		Namespace: namespace, Name: name, Created: d.time(), Revision: d.one("", "", "canary"), Binding: binding(namespace, d.marked(), ""),
		Hosts: []string{d.one("a.example.com", "x.demo.svc.cluster.local", "*.example.com")},
		Ports: []model.ServicePort{{Name: "web", Port: 80, Target: 8080}}, Resolution: model.Resolution(d.one("NONE", "STATIC", "DNS", "DYNAMIC_DNS")),
	}
	if d.yes() {
		e.Hosts = append(e.Hosts, "b.example.com")
	}
	if d.yes() {
		e.Selected, e.Selector = true, d.selector()
	} else if d.yes() {
		e.Endpoints = []model.EntryEndpoint{d.endpoint(), d.endpoint()}
	}
	return e
}

func (d dice) workloadEntry(namespace, name string) model.Object {
	return &model.WorkloadEntry{
		Namespace: namespace, Name: name, Revision: d.one("", "", "canary"), Binding: binding(namespace, d.marked(), ""), EntryEndpoint: d.endpoint(),
	}
}

func (d dice) gateway(namespace, name string) model.Object {
	g := &model.Gateway{
		Namespace: namespace, Name: name, Class: d.one("istio-waypoint", "istio-remote"), Network: d.one("", "near", "far"), ServiceAccount: name,
		For: model.Traffic(d.one("", "service", "workload", "all", "none")),
		Listeners: []model.Listener{{
			Port: model.HBONEPort, Protocol: "HBONE", From: model.From(d.one("Same", "All", "Selector")), Namespaces: model.Selector{Labels: d.selector()},
		}},
	}
	if d.yes() {
		g.Addresses = []model.GatewayAddress{{IP: d.address(3)}}
	} else if d.yes() {
		g.Wanted = []model.GatewayAddress{{Host: "far.example.com"}}
	}
	return g
}

func (d dice) class(_, _ string) model.Object {
	c := &model.GatewayClass{Name: d.one("istio-waypoint", "istio-remote"), For: model.Traffic(d.one("", "all", "none"))}
	if d.yes() {
		c.Inbound = &model.Inbound{PROXY: d.yes(), Port: uint16(d.IntN(2)) * model.HBONEPort}
	}
	return c
}

func (d dice) policy(namespace, name string) model.Object {
	return &model.AuthorizationPolicy{
		Namespace: namespace, Name: name, Selected: d.yes(), Selector: d.selector(), Targeted: d.IntN(4) == 0, Revision: d.one("", "", "canary"),
		Action: model.Action(d.one("ALLOW", "DENY", "CUSTOM")), DryRun: d.IntN(4) == 0,
	}
}

func (d dice) peer(namespace, name string) model.Object {
	p := &model.PeerAuthentication{
		Namespace: namespace, Name: name, Created: d.time(), Mode: model.MTLS(d.IntN(4)), Selected: d.yes(), Selector: d.selector(),
	}
	if p.Selected {
		p.Ports = map[uint16]model.MTLS{8080: model.MTLS(d.IntN(4))}
	}
	return p
}

// listening makes a pipeline that remembers what it says of objects.
func listening() (*pipeline, map[model.Key]string) {
	p, told := pipelineOf(model.Settings{AllowWaypoints: true}), make(map[model.Key]string)
	p.tell = func(key model.Key, _ int64, conditions []model.Condition) {
		delete(told, key)
		if len(conditions) > 0 {
			told[key] = fmt.Sprint(conditions)
		}
	}
	return p, told
}

// TestChangesLeadToWhatAFreshStartSees: following changes one after the other publishes the same, and says the same of the
// objects, as reading everything anew; so nothing that depends on a change is forgotten.
func TestChangesLeadToWhatAFreshStartSees(t *testing.T) {
	for seed := range uint64(12) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		objects := map[model.Key]model.Object{}
		followed, told := listening()
		for step := range 250 {
			changes := d.changes(objects)
			followed.apply(context.Background(), changes)

			fresh, anew := listening()
			var all []model.Change
			for key, object := range objects {
				all = append(all, model.Change{Key: key, Object: object})
			}
			fresh.apply(context.Background(), all)
			if diff := cmp.Diff(fresh.published(), followed.published()); diff != "" {
				t.Fatalf("seed %d, step %d, after %v (-fresh +followed):\n%s", seed, step, changes, diff)
			}
			if !maps.EqualFunc(fresh.produced, followed.produced, func(a, b []product) bool { return len(a) == len(b) }) {
				t.Fatalf("seed %d, step %d: another memory of what was produced", seed, step)
			}
			if diff := cmp.Diff(anew, told) + cmp.Diff(fresh.noted, followed.noted); diff != "" {
				t.Fatalf("seed %d, step %d, after %v, of the objects (-fresh +followed):\n%s", seed, step, changes, diff)
			}
		}
		// When all went, nothing is left.
		var gone []model.Change
		for key := range objects {
			gone = append(gone, model.Change{Key: key})
		}
		followed.apply(context.Background(), gone)
		if left := followed.published(); len(left) != 0 || len(followed.produced) != 0 || len(followed.noted) != 0 || len(told) != 0 {
			t.Fatalf("seed %d: left %v, %v, %v, %v", seed, left, followed.produced, followed.noted, told)
		}
	}
}

// changes throws some, and does them to the objects.
func (d dice) changes(objects map[model.Key]model.Object) []model.Change {
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
	return changes
}
