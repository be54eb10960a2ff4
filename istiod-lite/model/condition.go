package model

// Condition is something that an object's status says of it.
type Condition struct {
	// Type is what is said, such as istio.io/WaypointBound.
	Type   string
	Status bool
	// Reason is a word in CamelCase for programs, Message says to a person what to do.
	Reason, Message string
}
