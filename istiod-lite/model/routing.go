package model

import (
	"iter"
	"maps"
	"slices"
)

// routing holds the objects about requests, by what they depend on.
type routing struct {
	routes          map[Key]*Route
	grants          map[Name]*ReferenceGrant
	authentications map[Name]*RequestAuthentication
	backends        map[Name]*BackendTLSPolicy
	bundles         map[Name]*CABundle

	byParent  grouping[parentOf, *Route]
	byRef     grouping[ObjectRef, Key]          // routes by what they send traffic to
	abroad    grouping[border, Key]             // routes that send traffic to another namespace
	atGateway grouping[string, Key]             // routes of a namespace that are attached to gateways
	grantsIn  grouping[string, *ReferenceGrant] // by namespace
	byTarget  grouping[Target, Key]             // policies and authentications
	byBundle  grouping[Name, Key]               // BackendTLSPolicies by the bundles that they trust
}

// parentOf is a parent with the kind of the routes that are attached to it.
type parentOf struct {
	ObjectRef
	of Kind
}

// border lies between the namespace of a route and that of a backend.
type border struct{ from, to string }

func newRouting() *routing {
	return &routing{
		routes: make(map[Key]*Route), grants: make(map[Name]*ReferenceGrant), authentications: make(map[Name]*RequestAuthentication),
		backends: make(map[Name]*BackendTLSPolicy), bundles: make(map[Name]*CABundle), byBundle: make(grouping[Name, Key]),
		byParent: make(grouping[parentOf, *Route]), byRef: make(grouping[ObjectRef, Key]), abroad: make(grouping[border, Key]),
		atGateway: make(grouping[string, Key]), grantsIn: make(grouping[string, *ReferenceGrant]), byTarget: make(grouping[Target, Key]),
	}
}

// set takes in an object about requests, or out; of others it ignores all but the targets.
func (r *routing) set(object Object, there bool) {
	key := object.Key()
	switch o := object.(type) {
	case *Route:
		setIn(r.routes, key, o, there)
		r.index(o, there)
	case *ReferenceGrant:
		setIn(r.grants, key.Name, o, there)
		r.grantsIn.set(o.Namespace, o, there)
	case *RequestAuthentication:
		setIn(r.authentications, key.Name, o, there)
		r.targets(key, o.Targets, there)
	case *AuthorizationPolicy:
		r.targets(key, o.Targets, there)
	case *BackendTLSPolicy:
		setIn(r.backends, key.Name, o, there)
		for _, target := range o.Targets {
			r.byTarget.set(target.Target, key, there)
		}
		for _, bundle := range o.Bundles {
			r.byBundle.set(bundle.Name, key, there)
		}
	case *CABundle:
		setIn(r.bundles, key.Name, o, there)
	}
}

func setIn[K comparable, V any](m map[K]V, key K, value V, there bool) {
	if there {
		m[key] = value
	} else {
		delete(m, key)
	}
}

func (r *routing) targets(key Key, targets []Target, there bool) {
	for _, target := range targets {
		r.byTarget.set(target, key, there)
	}
}

func (r *routing) index(o *Route, there bool) {
	key := o.Key()
	for i := range o.Parents {
		parent := &o.Parents[i]
		r.byParent.set(parentOf{parent.ObjectRef, o.Kind}, o, there)
		if parent.Kind == string(KindGateway) {
			r.atGateway.set(o.Namespace, key, there)
		}
	}
	for to := range o.Refs {
		r.byRef.set(to, key, there)
		if to.Namespace != o.Namespace {
			r.abroad.set(border{o.Namespace, to.Namespace}, key, there)
		}
	}
}

// object returns the object that the key names, or nil.
func (r *routing) object(key Key) Object {
	switch key.Kind {
	case KindReferenceGrant:
		return orNil(r.grants[key.Name])
	case KindRequestAuthentication:
		return orNil(r.authentications[key.Name])
	case KindBackendTLSPolicy:
		return orNil(r.backends[key.Name])
	case KindCABundle:
		return orNil(r.bundles[key.Name])
	}
	return orNil(r.routes[key])
}

// all yields the objects of a kind.
func (r *routing) all(kind Kind) iter.Seq[Object] {
	switch kind {
	case KindReferenceGrant:
		return objects(maps.Values(r.grants))
	case KindRequestAuthentication:
		return objects(maps.Values(r.authentications))
	case KindBackendTLSPolicy:
		return objects(maps.Values(r.backends))
	case KindCABundle:
		return objects(maps.Values(r.bundles))
	}
	return objects(func(yield func(*Route) bool) {
		for key, route := range r.routes {
			if key.Kind == kind && !yield(route) {
				return
			}
		}
	})
}

func (r *routing) count(kind Kind) int {
	count := 0
	for range r.all(kind) {
		count++
	}
	return count
}

// refGroups has the kinds that routes and policies refer to, each with its group.
var refGroups = map[Kind]string{
	KindService: "", KindServiceEntry: "networking.istio.io",
	KindGateway: "gateway.networking.k8s.io", KindGatewayClass: "gateway.networking.k8s.io",
}

// users marks the routes and policies that refer to an object.
func (r *routing) users(key Key, mark func(Key)) {
	group, ok := refGroups[key.Kind]
	if !ok {
		return
	}
	ref := ObjectRef{Group: group, Kind: string(key.Kind), Name: key.Name}
	for each := range r.byRef.of(ref) {
		mark(each)
	}
	for each := range r.byTarget.of(Target(key)) {
		mark(each)
	}
	for _, kind := range RouteKinds {
		for route := range r.byParent.of(parentOf{ref, kind}) {
			mark(route.Key())
		}
	}
}

// gateways yields those that a route is attached to.
func (r *routing) gateways(key Key, yield func(Key)) {
	if !slices.Contains(RouteKinds[:], key.Kind) {
		return
	}
	if route := r.routes[key]; route != nil {
		for i := range route.Parents {
			if parent := &route.Parents[i]; parent.Kind == string(KindGateway) {
				yield(Key{KindGateway, parent.Name})
			}
		}
	}
}

// follow marks what is translated with a look at an object that changes.
func (r *routing) follow(key Key, mark func(Key)) {
	switch key.Kind {
	case KindNamespace:
		for each := range r.atGateway.of(key.Name.Name) {
			mark(each)
			r.rivals(r.routes[each], mark) // what is let in or not any more
		}
	case KindCABundle:
		for each := range r.byBundle.of(key.Name) {
			mark(each)
		}
	}
	switch o := r.object(key).(type) {
	case *Route:
		r.rivals(o, mark)
	case *BackendTLSPolicy:
		// Others win or lose the target by it.
		for _, target := range o.Targets {
			for other := range r.byTarget.of(target.Target) {
				if other.Kind == KindBackendTLSPolicy {
					mark(other)
				}
			}
		}
	case *ReferenceGrant:
		for _, from := range o.From {
			for each := range r.abroad.of(border{from.Namespace, o.Namespace}) {
				mark(each)
			}
		}
	}
}

// rivals marks routes of other kinds, which win or lose ports by a route.
func (r *routing) rivals(o *Route, mark func(Key)) {
	for i := range o.Parents {
		for _, kind := range RouteKinds {
			if kind == o.Kind {
				continue
			}
			for other := range r.byParent.of(parentOf{o.Parents[i].ObjectRef, kind}) {
				mark(other.Key())
			}
		}
	}
}

// RoutesAt returns the routes of a kind that may be in force at the parent, by name.
func (m *Model) RoutesAt(parent ObjectRef, kind Kind) []*Route {
	var found []*Route
	for route := range m.routing.byParent.of(parentOf{parent, kind}) {
		if route.Problem == nil {
			found = append(found, route)
		}
	}
	return sorted(found)
}

// Permits tells whether the owner of the other namespace lets objects refer to what is there.
func (m *Model) Permits(from GrantFrom, to ObjectRef) bool {
	for grant := range m.routing.grantsIn.of(to.Namespace) {
		if grant.permits(from, to) {
			return true
		}
	}
	return false
}
