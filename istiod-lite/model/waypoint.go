package model

// WaypointClass is the class of the mesh's own waypoints, and WaypointController who makes gateways of other classes
// such ones.
const (
	WaypointClass      = "istio-waypoint"
	WaypointController = "istio.io/mesh-controller"
)

// IsWaypoint tells whether the gateway is one of the mesh's own waypoints: its class says so, or is the one that is made when it is
// missing.
func (m *Model) IsWaypoint(g *Gateway) bool {
	if class := m.classes[g.Class]; class != nil {
		return class.Controller == WaypointController
	}
	return g.Class == WaypointClass
}

// Wish is what an object wants of a waypoint.
type Wish struct {
	Namespace string
	Traffic   Traffic // ForService or ForWorkload
	// Near says that the object isn't seen beyond its namespace, so neither by waypoints there.
	Near bool
}

// EntryWish is the wish of an entry's services.
func (m *Model) EntryWish(e *ServiceEntry) Wish {
	return Wish{Namespace: e.Namespace, Traffic: ForService, Near: m.Visibility(e) == OwnNamespace}
}

// Obstacle is what keeps an object from using a waypoint.
type Obstacle int

// The obstacles, the first that there is before the others.
const (
	NoObstacle Obstacle = iota
	NoGateway
	OtherNamespace
	OtherTraffic
	NotAdmitted
	NotReady
)

// UsableWaypoint returns the waypoint of that name if a wish for it can come true, else what is in the way.
func (m *Model) UsableWaypoint(w Wish, name Name) (*Gateway, Obstacle) {
	gateway := m.gateways[name]
	switch {
	case gateway == nil:
		return nil, NoGateway
	case w.Near && name.Namespace != w.Namespace:
		return nil, OtherNamespace
	case !m.Takes(gateway).Takes(w.Traffic):
		return nil, OtherTraffic
	case !m.Admits(gateway, w.Namespace):
		return nil, NotAdmitted
	case !gateway.Ready():
		return nil, NotReady
	}
	return gateway, NoObstacle
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
	return m.serviceBinding(Wish{Namespace: s.Namespace, Traffic: ForService}, s.Binding)
}

// EntryWaypoint tells whether the services of the entry have a waypoint.
func (m *Model) EntryWaypoint(e *ServiceEntry) ServiceBinding {
	return m.serviceBinding(m.EntryWish(e), e.Binding)
}

func (m *Model) serviceBinding(w Wish, binding *Binding) ServiceBinding {
	inherited := !binding.Decides()
	if in := m.namespaces[w.Namespace]; inherited && in != nil {
		binding = in.Binding
	}
	if !binding.Decides() || binding.None {
		return Unbound
	}
	switch _, obstacle := m.UsableWaypoint(w, binding.Waypoint); {
	case obstacle == NoObstacle:
		return Bound
	case obstacle == OtherTraffic && inherited:
		return Unbound // it was named for all that is in the namespace, of which it takes some
	}
	return BoundToNothing
}
