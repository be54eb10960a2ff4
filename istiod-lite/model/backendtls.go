package model

import (
	"slices"
	"time"
)

// BackendTLSPolicy says that backends are spoken to by TLS, and what their certificates must prove.
type BackendTLSPolicy struct {
	Namespace, Name string
	Generation      int64
	Created         time.Time
	Revision        string
	// Targets are the backends, of kinds that the mesh knows.
	Targets []BackendTarget
	// Hostname is the server name that is asked for; certificates must be for it if there are no Names.
	Hostname string
	Names    []SubjectName
	// System says that whom the waypoint's system trusts vouches for them; else it is Bundles.
	System  bool
	Bundles []ObjectRef
	// Problem is why it can't be obeyed, in the Gateway API's words; nil if it can.
	Problem *Problem
}

// BackendTarget is a Service or a ServiceEntry of the policy's namespace.
type BackendTarget struct {
	Target
	// Section is one of its ports by name; empty for all that no other policy names.
	Section string
}

// SubjectName is a name that a certificate may be for: a host name, or a URI.
type SubjectName struct{ Hostname, URI string }

// Key names it.
func (p *BackendTLSPolicy) Key() Key { return Key{KindBackendTLSPolicy, Name{p.Namespace, p.Name}} }

func (p *BackendTLSPolicy) revision() string { return p.Revision }

// CABundle is a ConfigMap with the certificates of authorities, as PEM in its field ca.crt.
type CABundle struct {
	Namespace, Name string
	PEM             string
}

// Key names it.
func (b *CABundle) Key() Key { return Key{KindCABundle, Name{b.Namespace, b.Name}} }

// CABundle returns the ConfigMap with certificates, or nil.
func (m *Model) CABundle(name Name) *CABundle { return m.routing.bundles[name] }

// BackendTLSPoliciesAt returns the policies about a target, in all of its sections, the oldest first.
func (m *Model) BackendTLSPoliciesAt(target Target) []*BackendTLSPolicy {
	var found []*BackendTLSPolicy
	for key := range m.routing.byTarget.of(target) {
		if p := m.routing.backends[key.Name]; p != nil && key.Kind == KindBackendTLSPolicy {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *BackendTLSPolicy) int { return older(a.Created, b.Created, a.Key().Name, b.Key().Name) })
	return found
}
