package model

// WaypointClass is the class of the mesh's own waypoints, and WaypointController who makes gateways of other classes
// such ones.
const (
	WaypointClass      = "istio-waypoint"
	WaypointController = "istio.io/mesh-controller"
)

// IsWaypoint tells whether the gateway is one of the mesh's own waypoints.
func (m *Model) IsWaypoint(g *Gateway) bool {
	class := m.classes[g.Class]
	return g.Class == WaypointClass || class != nil && class.Controller == WaypointController
}

// ServiceBinding is what becomes of the wish for a waypoint.
type ServiceBinding int

// What becomes of it. BoundToNothing is a waypoint that is wished for and can't be used.
const (
	Unbound ServiceBinding = iota
	Bound
	BoundToNothing
)

// ServiceWaypoint tells whether the service has a waypoint.
func (m *Model) ServiceWaypoint(s *Service) ServiceBinding {
	return m.serviceBinding(s.Namespace, s.Binding)
}

// EntryWaypoint tells whether the services of the entry have a waypoint.
func (m *Model) EntryWaypoint(e *ServiceEntry) ServiceBinding {
	return m.serviceBinding(e.Namespace, e.Binding)
}

func (m *Model) serviceBinding(namespace string, binding *Binding) ServiceBinding {
	if in := m.namespaces[namespace]; !binding.Decides() && in != nil {
		binding = in.Binding
	}
	if !binding.Decides() || binding.None {
		return Unbound
	}
	gateway := m.gateways[binding.Waypoint]
	if gateway == nil || !gateway.Ready() || !m.Takes(gateway).Takes(ForService) || !m.Admits(gateway, namespace) {
		return BoundToNothing
	}
	return Bound
}
