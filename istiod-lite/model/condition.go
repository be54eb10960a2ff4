package model

// The types of conditions that are ours in the status of any object but a Gateway. Whoever writes statuses takes those away that don't
// hold any more.
const (
	WaypointBound     = "istio.io/WaypointBound"
	WaypointMissing   = "istio.io/WaypointMissing"
	VisibilityApplied = "istio.io/VisibilityApplied"
	WorkloadsSelected = "tulle.dev/WorkloadsSelected" // only there while it doesn't hold
	ZtunnelAccepted   = "ZtunnelAccepted"             // of policies, by those who enforce them
	WaypointAccepted  = "WaypointAccepted"
)

// ConditionTypes are all of them.
func ConditionTypes() []string {
	return []string{WaypointBound, WaypointMissing, VisibilityApplied, WorkloadsSelected, ZtunnelAccepted, WaypointAccepted}
}

// The types of conditions of the Gateway API, for Gateways and for routes at their parents.
const (
	Accepted     = "Accepted"
	Programmed   = "Programmed"
	ResolvedRefs = "ResolvedRefs"
)

// Condition is something that an object's status says of it.
type Condition struct {
	// Type is what is said, such as istio.io/WaypointBound.
	Type   string
	Status bool
	// Reason is a word in CamelCase for programs, Message says to a person what to do.
	Reason, Message string
}

// GatewayStatus is the status of a Gateway beside its conditions.
type GatewayStatus struct {
	Addresses []GatewayAddress
	Listeners []ListenerStatus
}

// ListenerStatus is what is said of one of a Gateway's listeners.
type ListenerStatus struct {
	Name           string
	Kinds          []GroupKind // of routes that may attach
	AttachedRoutes int
	Conditions     []Condition
}
