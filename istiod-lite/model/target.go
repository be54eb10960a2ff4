package model

// Target is what a policy is attached to. It is in the policy's namespace, but for a GatewayClass, which is in none.
type Target struct {
	Kind Kind // Service, ServiceEntry, Gateway or GatewayClass
	Name
}
