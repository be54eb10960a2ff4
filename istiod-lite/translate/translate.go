// Package translate turns the model's objects into the resources that proxies read. It is pure: the same model gives the
// same resources, and nothing is kept between calls.
package translate

import (
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// Mesh is what the resources say of the whole mesh.
type Mesh struct {
	// TrustDomain is that of every identity.
	TrustDomain string
	// ClusterID begins the name of every workload.
	ClusterID string
	// Domain ends the host name of every service, such as cluster.local.
	Domain string
}

// Resource is what a proxy reads under a name.
type Resource struct {
	// Name is a workload's uid, a service's namespace/hostname, or a policy's namespace/name.
	Name string
	// Message is a *workload.Address or a *security.Authorization.
	Message proto.Message
}

// Note is something that the writer of an object should know: it is right, but not all of it takes effect.
type Note struct {
	Object model.Key
	Text   string
}

// Result is what becomes of an object. Without resources nothing of it is published.
type Result struct {
	Resources []Resource
	Notes     []Note
	// Conditions are those of the object that the key names. One of ours that isn't among them doesn't hold any more; nil
	// means that it has none of ours.
	Conditions []model.Condition
}

// Object translates the object that the key names; one that isn't in the model has no resources. The model must not
// change meanwhile.
func (mesh Mesh) Object(m *model.Model, key model.Key) Result {
	switch key.Kind {
	case model.KindPod:
		if pod := m.Pod(key.Name); pod != nil {
			return mesh.pod(m, pod)
		}
	case model.KindService:
		if service := m.Service(key.Name); service != nil {
			return mesh.service(m, service)
		}
	case model.KindEndpointSlice:
		if slice := m.EndpointSlice(key.Name); slice != nil {
			return mesh.endpoints(m, slice)
		}
	case model.KindAuthorizationPolicy:
		if policy := m.AuthorizationPolicy(key.Name); policy != nil {
			return authorization(m, policy)
		}
	case model.KindPeerAuthentication:
		if peer := m.PeerAuthentication(key.Name); peer != nil {
			return peerPolicy(m, peer)
		}
	case model.KindStaticStrict:
		if m.Count(model.KindPeerAuthentication) > 0 {
			return one(policyResource(staticStrict(m.RootNamespace())))
		}
	}
	return Result{}
}

func one(resource Resource) Result { return Result{Resources: []Resource{resource}} }

func workloadResource(w *workload.Workload) Resource {
	return Resource{Name: w.Uid, Message: &workload.Address{Type: &workload.Address_Workload{Workload: w}}}
}

func serviceResource(s *workload.Service) Resource {
	return Resource{Name: s.Namespace + "/" + s.Hostname, Message: &workload.Address{Type: &workload.Address_Service{Service: s}}}
}

func policyResource(p *security.Authorization) Resource {
	return Resource{Name: p.Namespace + "/" + p.Name, Message: p}
}
