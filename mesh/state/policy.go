package state

import "net/netip"

// Policy is an L4 authorization policy. It is immutable once it is in a Table.
type Policy struct {
	Namespace string
	Name      string
	Scope     Scope
	Action    Action
	DryRun    bool // logged, not enforced; false if Invalid, for then nobody knows what it is meant for

	// Groups matches if any group does, a group if all of its rules do, a rule if any of its matches does. A rule
	// without matches is true, a group without rules is true, a policy without groups never matches.
	Groups [][][]Match

	// Invalid tells what can't be understood of the policy. An evaluator must then act on the safe side: an ALLOW
	// policy never matches, a DENY policy always does.
	Invalid error

	fullName string
}

// Key returns the namespace and name, by which the policy is named.
func (p *Policy) Key() Name { return Name{p.Namespace, p.Name} }

// FullName returns "namespace/name", as workloads list the policy. It doesn't allocate.
func (p *Policy) FullName() string { return p.fullName }

// Scope is which workloads a policy is for.
type Scope uint8

// The scopes, numbered as in authorization.proto.
const (
	ScopeGlobal    Scope = iota // every workload of the mesh
	ScopeNamespace              // every workload of the policy's namespace
	ScopeSelector               // the workloads that list the policy by name
)

// Action is what a matching policy does.
type Action uint8

// The actions, numbered as in authorization.proto.
const (
	Allow Action = iota
	Deny
)

// Match is the conjunction of its attributes; each is true if (no positive value or one hit) and no negative hit. A
// Match without any attribute is false.
type Match struct {
	Namespaces          []StringMatch
	NotNamespaces       []StringMatch
	Principals          []StringMatch // without spiffe://
	NotPrincipals       []StringMatch
	SourceIPs           []netip.Prefix
	NotSourceIPs        []netip.Prefix
	DestinationIPs      []netip.Prefix
	NotDestinationIPs   []netip.Prefix
	DestinationPorts    []uint16
	NotDestinationPorts []uint16
	ServiceAccounts     []ServiceAccount
	NotServiceAccounts  []ServiceAccount
}

// ServiceAccount names a service account in any trust domain.
type ServiceAccount struct{ Namespace, Name string }

// StringMatch is a test of a string.
type StringMatch struct {
	Kind  MatchKind
	Value string // unused with MatchPresence
}

// MatchKind is how a string is tested.
type MatchKind uint8

// The tests of a string.
const (
	MatchExact MatchKind = iota
	MatchPrefix
	MatchSuffix
	MatchPresence // any but the empty string
)
