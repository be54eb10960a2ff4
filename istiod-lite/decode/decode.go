// Package decode makes the model's objects of Kubernetes', Istio's and the Gateway API's. It is pure, and says of an
// object that can't be meant which field is wrong; every source of objects uses it.
package decode

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Error says which field of an object can't be used, and why.
type Error struct {
	// Field is a path such as spec.ports[0].port.
	Field string
	Err   error
}

// Error gives field: reason.
func (e *Error) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func at(field string, err error) error { return &Error{Field: field, Err: err} }

// Kind is a sort of object that the mesh is made of.
type Kind struct {
	Group, Kind string
	// Versions are those of the API that can be read, the best first.
	Versions []string
	// Resource is the kind's name in paths of the API; empty for a kind that is only checked, not followed.
	Resource string
	// Model is the kind of what becomes of it.
	Model model.Kind

	read   func(fill func(into any) error) (model.Object, error)
	closed func(fill func(into any) error) model.Object
}

// kind joins a Kubernetes type with the function that reads it.
func kind[T any](k Kind, convert func(*T) (model.Object, error)) Kind {
	k.read = func(fill func(any) error) (model.Object, error) {
		o := new(T)
		err := fill(o)
		if line, bare := err.(*lineError); bare { // else fill has found the field
			err = at("spec", line)
		}
		if err != nil {
			return nil, err
		}
		return convert(o)
	}
	return k
}

// Kinds are all of them. Those of one group follow each other.
func Kinds() []Kind {
	return slices.Concat(core(), networking(), gateways(), routing(), backends(), security())
}

// APIVersions returns the versions with their group, as objects are marked.
func (k Kind) APIVersions() []string {
	versions := slices.Clone(k.Versions)
	if k.Group == "" {
		return versions
	}
	for i, version := range versions {
		versions[i] = k.Group + "/" + version
	}
	return versions
}

// Read makes an object of what fill writes into the Kubernetes type that it is given. The object is nil where it is right
// but says nothing to the mesh. Errors are those of fill, and of type *Error.
func (k Kind) Read(fill func(into any) error) (model.Object, error) {
	object, err := k.read(fill)
	if err != nil {
		return nil, err
	}
	return object, nil
}

// Closed makes what takes the place of an object that can't be read and never could, where its absence would open a door, of a
// policy one that lets nobody in; of a route it is one that says so at its parents and has no part in anything. It is nil for other kinds.
func (k Kind) Closed(fill func(into any) error) model.Object {
	if k.closed == nil {
		return nil
	}
	return k.closed(fill)
}

// Theirs tells by the labels of an object that it is for a control plane of another revision than these. A Gateway's revision is decided
// elsewhere: it may be its namespace's.
func (k Kind) Theirs(labels map[string]string, revisions []string) bool {
	switch k.Group {
	case "security.istio.io", "networking.istio.io", "gateway.networking.k8s.io":
		revision := labels[model.RevisionLabel]
		return revision != "" && !slices.Contains(revisions, revision) && k.Model != model.KindGateway && k.Model != model.KindGatewayClass
	}
	return false
}

func core() []Kind {
	return []Kind{
		kind(Kind{Kind: "Namespace", Versions: []string{"v1"}, Resource: "namespaces", Model: model.KindNamespace}, namespace),
		kind(Kind{Kind: "Node", Versions: []string{"v1"}, Resource: "nodes", Model: model.KindNode}, node),
		kind(Kind{Kind: "ServiceAccount", Versions: []string{"v1"}}, serviceAccount),
		kind(Kind{Kind: "Pod", Versions: []string{"v1"}, Resource: "pods", Model: model.KindPod}, pod),
		kind(Kind{Kind: "Service", Versions: []string{"v1"}, Resource: "services", Model: model.KindService}, service),
		kind(Kind{Kind: "ConfigMap", Versions: []string{"v1"}, Resource: "configmaps", Model: model.KindMeshConfig}, configMap),
		kind(Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Versions: []string{"v1"}, Resource: "endpointslices", Model: model.KindEndpointSlice}, endpointSlice),
	}
}

func namespace(o *corev1.Namespace) (model.Object, error) {
	return &model.Namespace{
		Name: o.Name, Labels: model.LabelsOf(o.Labels), Binding: binding(o.Name, o.ObjectMeta),
		TrafficDistribution: o.Annotations[distributionAnnotation],
	}, nil
}

func node(o *corev1.Node) (model.Object, error) {
	return &model.Node{Name: o.Name, Locality: model.Locality{
		Region:  o.Labels["topology.kubernetes.io/region"],
		Zone:    o.Labels["topology.kubernetes.io/zone"],
		Subzone: o.Labels["topology.istio.io/subzone"],
	}}, nil
}

// serviceAccount only checks: an account takes effect through the pods that run as it.
func serviceAccount(*corev1.ServiceAccount) (model.Object, error) { return nil, nil }
