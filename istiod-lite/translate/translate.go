// Package translate turns the model's objects into the resources that proxies read, and into what the objects' statuses say
// of that. It is pure: the same model gives the same resources, and nothing is kept between calls.
package translate

import (
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// Mesh is what translation is told beside the model.
type Mesh struct {
	// ClusterID begins the name of every workload.
	ClusterID string
	// DryRun publishes policies that are only to be tried out; proxies older than 1.29 would enforce them.
	DryRun bool
	// Bypass lets connections go past a waypoint that is named but can't be used, as Istio does.
	Bypass bool
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

func (r *Result) note(key model.Key, text string) { r.Notes = append(r.Notes, Note{key, text}) }

// Object translates the object that the key names; one that isn't in the model has no resources. The model must not
// change meanwhile.
func (mesh Mesh) Object(m *model.Model, key model.Key) Result {
	switch key.Kind {
	case model.KindHost:
		return mesh.host(m, key.Name)
	case model.KindNetwork:
		return mesh.network(m, key.Name.Name)
	case model.KindStaticStrict:
		return shared(m)
	}
	switch o := m.Object(key).(type) {
	case *model.Pod:
		return mesh.pod(m, o)
	case *model.Service:
		return Result{Conditions: conditions(mesh.bind(m, serviceWish(o)).condition, roomCondition(m, o.Key()))}
	case *model.EndpointSlice:
		return mesh.endpoints(m, o)
	case *model.ServiceEntry:
		return mesh.entry(m, o)
	case *model.WorkloadEntry:
		return mesh.workloadEntry(m, o)
	case *model.Gateway:
		return allowWaypoint(m, o)
	case *model.AuthorizationPolicy:
		return mesh.authorization(m, o)
	case *model.PeerAuthentication:
		return peerPolicy(m, o)
	}
	return Result{}
}

func conditions(list ...*model.Condition) []model.Condition {
	var some []model.Condition
	for _, condition := range list {
		if condition != nil {
			some = append(some, *condition)
		}
	}
	return some
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
