package decode

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func routing() []Kind {
	route := func(name string, kind model.Kind, versions ...string) Kind {
		return Kind{
			Group: gatewayGroup, Kind: name, Versions: versions, Resource: strings.ToLower(name) + "s", Model: kind,
			closed: func(fill func(any) error) model.Object { return unreadable(kind, fill) },
		}
	}
	return []Kind{
		kind(route("HTTPRoute", model.KindHTTPRoute, "v1", "v1beta1"), httpRoute),
		kind(route("GRPCRoute", model.KindGRPCRoute, "v1", "v1alpha2"), grpcRoute),
		kind(route("TLSRoute", model.KindTLSRoute, "v1", "v1alpha3", "v1alpha2"), tlsRoute),
		kind(route("TCPRoute", model.KindTCPRoute, "v1", "v1alpha2"), tcpRoute),
		kind(Kind{Group: gatewayGroup, Kind: "ReferenceGrant", Versions: []string{"v1", "v1beta1"}, Resource: "referencegrants", Model: model.KindReferenceGrant}, referenceGrant),
	}
}

// unreadable stands for a route that can't be read: its parents are told so. It is nil where even they can't be read.
func unreadable(kind model.Kind, fill func(any) error) model.Object {
	var o struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              gatewayv1.CommonRouteSpec `json:"spec"`
	}
	if fill(&o) != nil {
		return nil
	}
	r, err := newRoute(kind, o.ObjectMeta, o.Spec)
	if err != nil {
		return nil
	}
	r.Problem = unsupported("it can't be read")
	return r
}

// newRoute reads what all routes have.
func newRoute(kind model.Kind, o metav1.ObjectMeta, spec gatewayv1.CommonRouteSpec) (*model.Route, error) {
	r := &model.Route{
		Kind: kind, Namespace: within(o), Name: o.Name, Generation: o.Generation, Created: o.CreationTimestamp.Time,
		Revision: o.Labels[model.RevisionLabel],
	}
	for i, ref := range spec.ParentRefs {
		parent := model.ParentRef{
			ObjectRef: objectRef(r.Namespace, or(ref.Group, gatewayGroup), or(ref.Kind, "Gateway"), ref.Namespace, ref.Name),
			Section:   string(or(ref.SectionName, "")),
			Written:   ref.Namespace != nil,
		}
		if ref.Port != nil {
			var err error
			if parent.Port, err = port(fmt.Sprintf("spec.parentRefs[%d].port", i), int64(*ref.Port)); err != nil {
				return nil, err
			}
		}
		r.Parents = append(r.Parents, parent)
	}
	return r, nil
}

// or is what a pointer points to, or a default.
func or[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// objectRef takes the group of Kubernetes' own kinds, which may be written as core, for an empty one.
func objectRef(namespace string, group gatewayv1.Group, kind gatewayv1.Kind, in *gatewayv1.Namespace, name gatewayv1.ObjectName) model.ObjectRef {
	if group == "core" {
		group = ""
	}
	return model.ObjectRef{
		Group: string(group), Kind: string(kind),
		Name: model.Name{Namespace: string(or(in, gatewayv1.Namespace(namespace))), Name: string(name)},
	}
}

func httpRoute(o *gatewayv1.HTTPRoute) (model.Object, error) {
	r, err := newRoute(model.KindHTTPRoute, o.ObjectMeta, o.Spec.CommonRouteSpec)
	if err != nil {
		return nil, err
	}
	for i := range o.Spec.Rules {
		rule, err := httpRule(r.Namespace, fmt.Sprintf("spec.rules[%d]", i), &o.Spec.Rules[i])
		if err != nil {
			return nil, err
		}
		r.Rules = append(r.Rules, rule)
	}
	return r, nil
}

func httpRule(namespace, path string, o *gatewayv1.HTTPRouteRule) (model.RouteRule, error) {
	rule := model.RouteRule{Name: string(or(o.Name, ""))}
	if o.SessionPersistence != nil {
		rule.Problem = unsupported("sessionPersistence is not supported: leave it out")
	}
	if len(o.Matches) == 0 {
		o.Matches = []gatewayv1.HTTPRouteMatch{{}}
	}
	for i := range o.Matches {
		match, err := httpMatch(fmt.Sprintf("%s.matches[%d]", path, i), &o.Matches[i])
		if err != nil {
			return rule, err
		}
		rule.Matches = append(rule.Matches, match)
	}
	f := filterReader{namespace: namespace, path: path + ".filters"}
	for i := range o.Filters {
		if err := f.http(i, &o.Filters[i]); err != nil {
			return rule, err
		}
	}
	rule.Filters, rule.Problem = f.filters, first(rule.Problem, f.problem, incompatible(&f.filters, rule.Matches))
	for i := range o.BackendRefs {
		backend, err := httpBackend(namespace, fmt.Sprintf("%s.backendRefs[%d]", path, i), &o.BackendRefs[i])
		if err != nil {
			return rule, err
		}
		backend.Problem = first(backend.Problem, incompatible(&backend.Filters, rule.Matches))
		rule.Backends = append(rule.Backends, backend)
	}
	return rule, timing(path, o, &rule)
}

// incompatible finds filters that can't be had together, or with these matches.
func incompatible(f *model.Filters, matches []model.RouteMatch) *model.Problem {
	clash := func(text string) *model.Problem {
		return &model.Problem{Condition: model.Accepted, Reason: "IncompatibleFilters", Message: text}
	}
	if f.Redirect != nil && f.Rewrite != nil {
		return clash("requestRedirect and urlRewrite exclude each other: leave one of them out")
	}
	for _, change := range f.PathChanges() {
		for i := range matches {
			if change.Prefix && matches[i].Path.Type != model.MatchPrefix {
				return clash("replacePrefixMatch needs matches of type PathPrefix only")
			}
		}
	}
	return nil
}

func httpBackend(namespace, path string, o *gatewayv1.HTTPBackendRef) (model.RouteBackend, error) {
	backend, err := backendRef(namespace, path, &o.BackendRef)
	if err != nil {
		return backend, err
	}
	f := filterReader{namespace: namespace, path: path + ".filters"}
	for i := range o.Filters {
		if err := f.http(i, &o.Filters[i]); err != nil {
			return backend, err
		}
	}
	backend.Filters, backend.Problem = f.ofBackend()
	return backend, nil
}

func grpcRoute(o *gatewayv1.GRPCRoute) (model.Object, error) {
	r, err := newRoute(model.KindGRPCRoute, o.ObjectMeta, o.Spec.CommonRouteSpec)
	if err != nil {
		return nil, err
	}
	for i := range o.Spec.Rules {
		rule, err := grpcRule(r.Namespace, fmt.Sprintf("spec.rules[%d]", i), &o.Spec.Rules[i])
		if err != nil {
			return nil, err
		}
		r.Rules = append(r.Rules, rule)
	}
	return r, nil
}

func grpcRule(namespace, path string, o *gatewayv1.GRPCRouteRule) (model.RouteRule, error) {
	rule := model.RouteRule{Name: string(or(o.Name, ""))}
	if o.SessionPersistence != nil {
		rule.Problem = unsupported("sessionPersistence is not supported: leave it out")
	}
	if len(o.Matches) == 0 {
		o.Matches = []gatewayv1.GRPCRouteMatch{{}}
	}
	for i := range o.Matches {
		match, err := grpcMatch(fmt.Sprintf("%s.matches[%d]", path, i), &o.Matches[i])
		if err != nil {
			return rule, err
		}
		rule.Matches = append(rule.Matches, match)
	}
	f := filterReader{namespace: namespace, path: path + ".filters"}
	for i := range o.Filters {
		if err := f.grpc(i, &o.Filters[i]); err != nil {
			return rule, err
		}
	}
	rule.Filters, rule.Problem = f.filters, first(rule.Problem, f.problem)
	for i := range o.BackendRefs {
		backend, err := grpcBackend(namespace, fmt.Sprintf("%s.backendRefs[%d]", path, i), &o.BackendRefs[i])
		if err != nil {
			return rule, err
		}
		rule.Backends = append(rule.Backends, backend)
	}
	return rule, nil
}

func grpcBackend(namespace, path string, o *gatewayv1.GRPCBackendRef) (model.RouteBackend, error) {
	backend, err := backendRef(namespace, path, &o.BackendRef)
	if err != nil {
		return backend, err
	}
	f := filterReader{namespace: namespace, path: path + ".filters"}
	for i := range o.Filters {
		if err := f.grpc(i, &o.Filters[i]); err != nil {
			return backend, err
		}
	}
	backend.Filters, backend.Problem = f.ofBackend()
	return backend, nil
}

func tlsRoute(o *gatewayv1.TLSRoute) (model.Object, error) {
	r, err := newRoute(model.KindTLSRoute, o.ObjectMeta, o.Spec.CommonRouteSpec)
	if err != nil {
		return nil, err
	}
	for i, name := range o.Spec.Hostnames {
		if strings.Contains(strings.TrimPrefix(string(name), "*."), "*") || name == "" {
			return nil, at(fmt.Sprintf("spec.hostnames[%d]", i), fmt.Errorf("want a host name, or *. before one, have %q", name))
		}
		r.ServerNames = append(r.ServerNames, strings.ToLower(string(name)))
	}
	for i, rule := range o.Spec.Rules {
		if err := streamRule(r, i, rule.Name, rule.BackendRefs); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func tcpRoute(o *gatewayv1.TCPRoute) (model.Object, error) {
	r, err := newRoute(model.KindTCPRoute, o.ObjectMeta, o.Spec.CommonRouteSpec)
	if err != nil {
		return nil, err
	}
	for i, rule := range o.Spec.Rules {
		if err := streamRule(r, i, rule.Name, rule.BackendRefs); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// streamRule adds a rule of connections.
func streamRule(r *model.Route, i int, name *gatewayv1.SectionName, refs []gatewayv1.BackendRef) error {
	rule := model.RouteRule{Name: string(or(name, ""))}
	for j := range refs {
		backend, err := backendRef(r.Namespace, fmt.Sprintf("spec.rules[%d].backendRefs[%d]", i, j), &refs[j])
		if err != nil {
			return err
		}
		rule.Backends = append(rule.Backends, backend)
	}
	r.Rules = append(r.Rules, rule)
	return nil
}

// maxWeight is the Gateway API's, so that sums stay small.
const maxWeight = 1_000_000

func backendRef(namespace, path string, o *gatewayv1.BackendRef) (model.RouteBackend, error) {
	backend, err := backendObject(namespace, path, &o.BackendObjectReference)
	if err != nil {
		return backend, err
	}
	weight := or(o.Weight, 1)
	if weight < 0 || weight > maxWeight {
		return backend, at(path+".weight", fmt.Errorf("weight %d is not within 0 to %d", weight, maxWeight))
	}
	backend.Weight = uint32(weight)
	return backend, nil
}

func backendObject(namespace, path string, o *gatewayv1.BackendObjectReference) (model.RouteBackend, error) {
	backend := model.RouteBackend{Ref: objectRef(namespace, or(o.Group, ""), or(o.Kind, "Service"), o.Namespace, o.Name)}
	if o.Port == nil {
		return backend, nil
	}
	var err error
	backend.Port, err = port(path+".port", int64(*o.Port))
	return backend, err
}

func referenceGrant(o *gatewayv1.ReferenceGrant) (model.Object, error) {
	g := &model.ReferenceGrant{Namespace: within(o.ObjectMeta), Name: o.Name}
	for _, from := range o.Spec.From {
		ref := objectRef("", from.Group, from.Kind, &from.Namespace, "")
		g.From = append(g.From, model.GrantFrom{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace})
	}
	for _, to := range o.Spec.To {
		ref := objectRef("", to.Group, to.Kind, nil, or(to.Name, ""))
		g.To = append(g.To, model.GrantTo{Group: ref.Group, Kind: ref.Kind, Name: ref.Name.Name})
	}
	return g, nil
}

func unsupported(message string) *model.Problem {
	return &model.Problem{Condition: model.Accepted, Reason: "UnsupportedValue", Message: message}
}

// first is the first problem that is one, or nil.
func first(problems ...*model.Problem) *model.Problem {
	for _, problem := range problems {
		if problem != nil {
			return problem
		}
	}
	return nil
}
