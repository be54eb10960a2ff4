package routes_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
)

// dice throws objects of a small world, so that they often have to do with each other.
type dice struct{ *rand.Rand }

func (d dice) one(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) yes() bool { return d.IntN(2) == 0 }

func (d dice) name() model.Name {
	return model.Name{Namespace: d.one("shop", "cart"), Name: d.one("x", "y")}
}

func (d dice) object() model.Object {
	name := d.name()
	switch d.IntN(13) {
	case 8:
		return &model.Namespace{Name: name.Namespace, Binding: d.binding(name.Namespace), Labels: model.LabelsOf(map[string]string{"a": d.one("b", "c")})}
	case 9:
		g := &model.Gateway{Namespace: name.Namespace, Name: name.Name, Class: d.one(model.WaypointClass, "own"), For: model.Traffic(d.one("", "none"))}
		g.Listeners = []model.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE", From: model.From(d.one("Same", "All", "Selector"))}}
		if d.yes() {
			g.Listeners[0].Kinds = []model.GroupKind{{Group: model.RouteGroup, Kind: d.one("HTTPRoute", "TCPRoute")}}
		}
		g.Listeners[0].Namespaces = model.Selector{Labels: model.LabelsOf(map[string]string{"a": "b"})}
		if d.yes() {
			g.Addresses = []model.GatewayAddress{{Host: "waypoint.example"}}
		}
		return g
	case 10:
		if d.yes() {
			return &model.GatewayClass{Name: "own", Controller: d.one("", model.WaypointController), For: model.Traffic(d.one("", "workload"))}
		}
		return &model.ServiceEntry{
			Namespace: name.Namespace, Name: name.Name, Created: time.Unix(int64(d.IntN(2)), 0), Binding: d.binding(name.Namespace),
			Hosts: []string{d.one("a.example", "b.example")}, Ports: []model.ServicePort{{Name: "a", Port: 80}},
		}
	case 11:
		p := &model.BackendTLSPolicy{Namespace: name.Namespace, Name: name.Name, Created: time.Unix(int64(d.IntN(3)), 0), Hostname: "a.example", System: d.yes()}
		for _, target := range d.targets(name.Namespace) {
			if target.Kind == model.KindService || target.Kind == model.KindServiceEntry {
				p.Targets = append(p.Targets, model.BackendTarget{Target: target, Section: d.one("", "", "a", "b")})
			}
		}
		if !p.System {
			p.Bundles = []model.ObjectRef{{Kind: "ConfigMap", Name: model.Name{Namespace: name.Namespace, Name: d.one("x", "y")}}}
		}
		return p
	case 12:
		return &model.CABundle{Namespace: name.Namespace, Name: name.Name, PEM: d.one("nothing", "else")}
	case 0, 1:
		s := &model.Service{Namespace: name.Namespace, Name: name.Name, Binding: d.binding(name.Namespace), Ports: []model.ServicePort{{Name: "a", Port: 80}}}
		if d.yes() {
			s.Ports = append(s.Ports, model.ServicePort{Name: "b", Port: 81})
		}
		if d.IntN(4) > 0 {
			s.VIPs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		return s
	case 2:
		g := &model.ReferenceGrant{Namespace: name.Namespace, Name: name.Name}
		g.From = []model.GrantFrom{{Group: "gateway.networking.k8s.io", Kind: d.one("HTTPRoute", "TCPRoute"), Namespace: d.one("shop", "cart")}}
		g.To = []model.GrantTo{{Kind: "Service", Name: d.one("", "x")}}
		return g
	case 3:
		return &model.AuthorizationPolicy{
			Namespace: d.one(name.Namespace, "istio-system"), Name: name.Name, Targeted: true, Targets: d.targets(name.Namespace),
			Action: model.Action(d.one("ALLOW", "DENY")),
		}
	case 4:
		return &model.RequestAuthentication{Namespace: name.Namespace, Name: name.Name, Targeted: d.yes(), Targets: d.targets(name.Namespace)}
	}
	return d.route(name)
}

func (d dice) binding(namespace string) *model.Binding {
	labels := map[string]string{"istio.io/use-waypoint": d.one("", "x", "y", "none")}
	return model.BindingOf(namespace, func(key string) string { return labels[key] }, "")
}

func (d dice) targets(namespace string) []model.Target {
	var list []model.Target
	for range d.IntN(3) {
		list = append(list, model.Target{Kind: model.Kind(d.one("Service", "ServiceEntry", "Gateway", "GatewayClass")), Name: model.Name{Namespace: namespace, Name: d.one("x", "y")}})
	}
	return list
}

func (d dice) route(name model.Name) *model.Route {
	r := &model.Route{
		Kind: model.RouteKinds[d.IntN(len(model.RouteKinds))], Namespace: name.Namespace, Name: name.Name,
		Created: time.Unix(int64(d.IntN(3)), 0),
	}
	if d.IntN(5) == 0 {
		r.Problem = &model.Problem{Condition: "Accepted", Reason: "UnsupportedValue"}
	}
	for range 1 + d.IntN(2) {
		parent := model.ParentRef{ObjectRef: d.ref(), Port: uint16(d.IntN(2) * 80), Section: d.one("", "", "a", "b")}
		switch d.IntN(3) {
		case 0:
			parent.Group, parent.Kind, parent.Port, parent.Section = "gateway.networking.k8s.io", "Gateway", 0, ""
		case 1:
			parent.Group, parent.Kind = "networking.istio.io", "ServiceEntry"
		}
		r.Parents = append(r.Parents, parent)
	}
	rule := model.RouteRule{Matches: []model.RouteMatch{{Path: model.PathMatch{Value: "/"}}}}
	for range d.IntN(3) {
		rule.Backends = append(rule.Backends, model.RouteBackend{Ref: d.ref(), Port: uint16(80 + d.IntN(2)), Weight: 1})
	}
	if d.yes() {
		rule.Filters.Mirrors = []model.Mirror{{Backend: model.RouteBackend{Ref: d.ref(), Port: 80}}}
	}
	r.Rules = []model.RouteRule{rule}
	return r
}

func (d dice) ref() model.ObjectRef { return model.ObjectRef{Kind: "Service", Name: d.name()} }

// TestChangesLeadToWhatAFreshStartSees: translating what each change is said to touch leads to the same as translating
// everything anew, so nothing that depends on a change is forgotten.
func TestChangesLeadToWhatAFreshStartSees(t *testing.T) {
	for seed := range uint64(300) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		followed, results, objects := model.New(settings), map[model.Key]string{}, map[model.Key]model.Object{}
		apply := func(m *model.Model, into map[model.Key]string, changes []model.Change) {
			for _, key := range m.Apply(changes) {
				into[key] = text(t, routes.Object(m, key))
				if g := m.Gateway(key.Name); key.Kind == model.KindGateway && g != nil {
					into[key] = fmt.Sprint(routes.Attached(m, g))
				}
				if into[key] == "" {
					delete(into, key)
				}
			}
		}
		for step := range 80 {
			object := d.object()
			change := model.Change{Key: object.Key(), Object: object}
			if d.IntN(3) == 0 {
				change.Object = nil
				delete(objects, change.Key)
			} else {
				objects[change.Key] = object
			}
			apply(followed, results, []model.Change{change})

			fresh := map[model.Key]string{}
			var all []model.Change
			for key, object := range objects {
				all = append(all, model.Change{Key: key, Object: object})
			}
			apply(model.New(settings), fresh, all)
			if !maps.Equal(fresh, results) {
				t.Fatalf("seed %d, step %d, after %+v (-fresh +followed):\n%s", seed, step, change, cmp.Diff(fresh, results))
			}
		}
	}
}

// text is all that a result says; empty for nothing.
func text(t *testing.T, result routes.Result) string {
	var all strings.Builder
	for _, resource := range result.Resources {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(resource.Message)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %q\n", resource.Name, body)
	}
	for _, parent := range result.Parents {
		fmt.Fprintln(&all, parent)
	}
	for _, condition := range result.Conditions {
		fmt.Fprintln(&all, condition)
	}
	return all.String()
}

// BenchmarkRoute is the cost of one changed route of a service that has many, and of another service's, which should not
// depend on how many there are.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			m := model.New(settings)
			service := &model.Service{Namespace: "shop", Name: "x", VIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []model.ServicePort{{Port: 80}}}
			ref := model.ObjectRef{Kind: "Service", Name: model.Name{Namespace: "shop", Name: "x"}}
			changes := []model.Change{{Key: service.Key(), Object: service}}
			for i := range n {
				r := &model.Route{Kind: model.KindHTTPRoute, Namespace: "shop", Name: fmt.Sprint(i), Parents: []model.ParentRef{{ObjectRef: ref}}}
				r.Rules = []model.RouteRule{{Matches: []model.RouteMatch{{}}, Backends: []model.RouteBackend{{Ref: ref, Port: 80, Weight: 1}}}}
				changes = append(changes, model.Change{Key: r.Key(), Object: r})
			}
			m.Apply(changes)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for _, key := range m.Apply([]model.Change{changes[1+i%n]}) {
					if len(routes.Object(m, key).Resources) != 1 {
						b.Fatal("no resource")
					}
				}
			}
		})
	}
}
