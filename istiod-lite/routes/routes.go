// Package routes turns routes, policies and authentication into the resources that waypoints read, and says of each route
// what became of it. It is pure: the same model gives the same resources, and nothing is kept between calls.
package routes

import (
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Resource is what a waypoint reads under a name.
type Resource struct {
	// Name is "Kind/namespace/name", and for routes what they are attached to.
	Name    string
	Message *l7.Resource
}

// Parent is what became of a route at one of its parents.
type Parent struct {
	Ref        model.ParentRef
	Conditions []model.Condition
}

// Result is what becomes of an object.
type Result struct {
	Resources []Resource
	// Parents are a route's, those that are the mesh's, and the targets of a BackendTLSPolicy.
	Parents []Parent
	// Conditions are another policy's.
	Conditions []model.Condition
}

// schema is what a reader must know, of l7.proto.
const schema = 1

// Object translates the object that the key names; one that isn't in the model, or not about requests, has no resources.
// The model must not change meanwhile.
func Object(m *model.Model, key model.Key) Result {
	t := translation{m}
	switch o := m.Object(key).(type) {
	case *model.Route:
		return t.route(o)
	case *model.AuthorizationPolicy:
		if o.Targeted {
			return t.policy(o)
		}
	case *model.RequestAuthentication:
		return t.authentication(o)
	case *model.BackendTLSPolicy:
		return t.backendTLS(o)
	}
	return Result{}
}

// translation is one call of Object.
type translation struct{ model *model.Model }

// serviceName is how resources refer to a service, be it there or not.
func (t translation) serviceName(name model.Name) string {
	return name.Namespace + "/" + t.model.Hostname(&model.Service{Namespace: name.Namespace, Name: name.Name})
}

func origin(key model.Key) *l7.Origin {
	return &l7.Origin{Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name.Name}
}

func resourceName(key model.Key) string { return string(key.Kind) + "/" + key.Name.String() }
