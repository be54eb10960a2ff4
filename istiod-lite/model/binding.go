package model

// Binding is what labels say of the waypoint that traffic has to pass.
type Binding struct {
	// Waypoint is the wanted one; its Name is empty if the labels don't say.
	Waypoint Name
	// None says that no waypoint is wanted, not even the namespace's.
	None bool
	// Canary is a second waypoint, which gets a share of the connections; its Name is empty if there is none.
	Canary Name
	// Weight is that share in percent, as it is written; empty means none.
	Weight string
	// Ingress says that gateways at the mesh's edge pass the waypoint too, if it is "true"; empty leaves it to the namespace.
	Ingress string
}

// CanaryWeight is the annotation with the share of a canary.
const CanaryWeight = "istio.io/use-waypoint-canary-weight"

// ManagedLabel says of an object that is made for a Gateway by whom.
const ManagedLabel = "gateway.istio.io/managed"

// What a binding is read from.
const (
	waypointLabel = "istio.io/use-waypoint"
	waypointIn    = "istio.io/use-waypoint-namespace"
	canaryLabel   = "istio.io/use-waypoint-canary"
	canaryIn      = "istio.io/use-waypoint-canary-namespace"
	ingressLabel  = "istio.io/ingress-use-waypoint"
	noWaypoint    = "none"
)

// BindingOf reads the labels of an object of the namespace, of which label returns the value, and the share of a canary
// from its annotation. It returns nil if they say nothing.
func BindingOf(namespace string, label func(key string) string, weight string) *Binding {
	switch label(ManagedLabel) {
	case "istio.io-mesh-controller", "istio.io-eastwest-controller":
		return &Binding{None: true} // a waypoint, or a way into another network, itself
	}
	wanted, ingress := label(waypointLabel), label(ingressLabel)
	if wanted == "" && ingress == "" {
		return nil
	}
	b := &Binding{Ingress: ingress, None: wanted == noWaypoint}
	if wanted == "" || b.None {
		return b
	}
	b.Waypoint = Name{either(label(waypointIn), namespace), wanted}
	if canary := label(canaryLabel); canary != "" && canary != noWaypoint {
		b.Canary, b.Weight = Name{either(label(canaryIn), namespace), canary}, weight
	}
	return b
}

func either(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

// Decides tells whether the binding says whether there is a waypoint, so that the namespace's doesn't count.
func (b *Binding) Decides() bool { return b != nil && (b.None || b.Waypoint.Name != "") }

// waypoints yields the waypoints that it names.
func (b *Binding) waypoints(yield func(Name) bool) {
	if b == nil || b.Waypoint.Name == "" || !yield(b.Waypoint) {
		return
	}
	if b.Canary.Name != "" {
		yield(b.Canary)
	}
}
