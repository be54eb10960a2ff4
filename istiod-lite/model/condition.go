package model

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
