package model

import "net/netip"

// Action is what a policy does with what it matches.
type Action string

// The actions. Custom and Audit aren't for L4 proxies.
const (
	Allow  Action = "ALLOW"
	Deny   Action = "DENY"
	Audit  Action = "AUDIT"
	Custom Action = "CUSTOM"
)

// AuthorizationPolicy says who may call whom.
type AuthorizationPolicy struct {
	Namespace, Name string
	Generation      int64
	Revision        string
	// Selected is false for a policy about the whole namespace, or mesh.
	Selected bool
	Selector Labels
	// Targeted says that it is attached to a gateway or a service, so not for L4 proxies.
	Targeted bool
	// Targets are what it is attached to, as far as that is of a kind that the mesh knows.
	Targets []Target
	Action  Action
	// Provider decides about what a Custom policy matches.
	Provider string
	DryRun   bool
	Rules    []Rule
}

// Key names it.
func (p *AuthorizationPolicy) Key() Key {
	return Key{KindAuthorizationPolicy, Name{p.Namespace, p.Name}}
}

func (p *AuthorizationPolicy) selector() (Labels, bool) { return p.Selector, p.Selected && !p.Targeted }

func (p *AuthorizationPolicy) revision() string { return p.Revision }

// Rule matches if one of From, one of To, and all of When do; an empty list always does.
type Rule struct {
	From []Source
	To   []Operation
	When []When
}

// Source is who calls. Fields are all needed, values of a field are alternatives.
type Source struct {
	Principals, NotPrincipals           []string
	Namespaces, NotNamespaces           []string
	ServiceAccounts, NotServiceAccounts []Name
	IPs, NotIPs                         []netip.Prefix

	RequestPrincipals, NotRequestPrincipals []string
	TrustDomains, NotTrustDomains           []string
	RemoteIPs, NotRemoteIPs                 []netip.Prefix
	// L7 names the fields in use that only waypoints know.
	L7 []string
}

// Operation is what is called.
type Operation struct {
	Ports, NotPorts []uint16

	Hosts, NotHosts     []string
	Methods, NotMethods []string
	Paths, NotPaths     []string
	// L7 names the fields in use that need a look into requests.
	L7 []string
}

// When is a condition on a further attribute. Of the four pairs of values at most the one that the attribute's type asks
// for is set.
type When struct {
	Attribute       string
	Values, Not     []string
	IPs, NotIPs     []netip.Prefix
	Ports, NotPorts []uint16
}

// The attributes of conditions that L4 proxies know.
const (
	SourceIP        = "source.ip"
	SourceNamespace = "source.namespace"
	SourcePrincipal = "source.principal"
	DestinationIP   = "destination.ip"
	DestinationPort = "destination.port"
)

// Those that only waypoints know. Headers and claims stand in brackets behind their attribute, such as
// request.headers[x-user].
const (
	RemoteIP             = "remote.ip"
	SourceServiceAccount = "source.serviceAccount"
	SourceTrustDomain    = "source.trustDomain"
	ConnectionSNI        = "connection.sni"
	RequestPrincipal     = "request.auth.principal"
	RequestAudiences     = "request.auth.audiences"
	RequestPresenter     = "request.auth.presenter"
	RequestHeader        = "request.headers"
	RequestClaim         = "request.auth.claims"
)

// IsL4 tells whether L4 proxies know the attribute.
func (c *When) IsL4() bool {
	switch c.Attribute {
	case SourceIP, SourceNamespace, SourcePrincipal, DestinationIP, DestinationPort:
		return true
	}
	return false
}
