// Package policy decides whether a connection may reach a workload, by the authorization policies that are for it.
package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// Facts are what is known of a connection at its destination.
type Facts struct {
	// Peer is the client's proven identity; zero if it came in plain text.
	Peer                identity.Workload
	Source, Destination netip.AddrPort
}

// Verdict is the decision on a connection.
type Verdict struct {
	Allowed bool
	// Policy is the "namespace/name" that decided, or "" if no single one did.
	Policy string
	// Reason says in words why not; it is "" if Allowed.
	Reason string
	// Pending: refused only since Policy is not known yet. A control plane that names a policy before it sends it makes
	// that so for a moment, in which a new connection may wait and a live one need not be cut.
	Pending bool
	// DryRun names the policies that match but are only to be logged.
	DryRun []string
}

// Evaluate decides on a connection to dst. A matching DENY policy refuses it; else it is allowed if there is no ALLOW
// policy or if one matches. Policies with DryRun decide nothing. Where the state of the mesh is incomplete it refuses: if
// dst lists a policy that isn't known, or a DENY policy is invalid; an ALLOW policy that is invalid allows nothing.
func Evaluate(t *state.Table, dst *state.Workload, f Facts) Verdict {
	policies, missing := t.PoliciesFor(dst)
	if len(policies) == 0 && len(missing) == 0 {
		return Verdict{Allowed: true}
	}
	facts := newFacts(f)
	v := decide(policies, missing, &facts)
	v.DryRun = dryRun(policies, &facts)
	return v
}

func decide(policies []*state.Policy, missing []string, f *facts) Verdict {
	// 1. Any DENY that hits.
	restricted := false
	for _, p := range policies {
		switch {
		case p.DryRun:
		case p.Action == state.Allow:
			restricted = true
		case hits(p, f):
			return denied(p)
		}
	}
	// 2. What is missing may be a DENY.
	if len(missing) > 0 {
		return Verdict{Policy: missing[0], Reason: "policy " + missing[0] + " is not known yet", Pending: true}
	}
	// 3. Without ALLOW policies everything else is allowed.
	if !restricted {
		return Verdict{Allowed: true}
	}
	// 4. Otherwise one of them has to hit.
	for _, p := range policies {
		if !p.DryRun && p.Action == state.Allow && hits(p, f) {
			return Verdict{Allowed: true, Policy: p.Key().String()}
		}
	}
	return Verdict{Reason: "allow policies exist, but none allowed"}
}

func denied(p *state.Policy) Verdict {
	name := p.Key().String()
	if p.Invalid != nil {
		return Verdict{Policy: name, Reason: "policy " + name + " is invalid, so it denies: " + p.Invalid.Error()}
	}
	return Verdict{Policy: name, Reason: "denied by policy " + name}
}

// dryRun names the policies that would have hit, were they in force.
func dryRun(policies []*state.Policy, f *facts) []string {
	var names []string
	for _, p := range policies {
		if p.DryRun && hits(p, f) {
			names = append(names, p.Key().String())
		}
	}
	return names
}

// hits tells whether the policy does what it is for. One that is invalid does so only if that is to deny.
func hits(p *state.Policy, f *facts) bool {
	if p.Invalid != nil {
		return p.Action == state.Deny
	}
	return matches(p, f)
}

// facts are Facts in the form in which attributes are compared.
type facts struct {
	authenticated       bool
	principal           string // "" without an identity
	namespace           string // "" without an identity
	serviceAccount      state.ServiceAccount
	source, destination netip.Addr
	port                uint16
}

func newFacts(f Facts) facts {
	return facts{
		authenticated:  !f.Peer.IsZero(),
		principal:      f.Peer.Principal(),
		namespace:      f.Peer.Namespace(),
		serviceAccount: state.ServiceAccount{Namespace: f.Peer.Namespace(), Name: f.Peer.ServiceAccount()},
		source:         f.Source.Addr().Unmap().WithZone(""),
		destination:    f.Destination.Addr().Unmap().WithZone(""),
		port:           f.Destination.Port(),
	}
}

// matches tells whether any group does.
func matches(p *state.Policy, f *facts) bool {
	for _, rules := range p.Groups {
		if matchesAll(rules, f) {
			return true
		}
	}
	return false
}

// matchesAll tells whether every rule is true: it has no matches, or one that is.
func matchesAll(rules [][]state.Match, f *facts) bool {
	for _, rule := range rules {
		if len(rule) > 0 && !matchesAny(rule, f) {
			return false
		}
	}
	return true
}

func matchesAny(rule []state.Match, f *facts) bool {
	for i := range rule {
		if match(&rule[i], f) {
			return true
		}
	}
	return false
}

// match is true if every attribute that m has is, and it has one. An attribute is true with no positive value or one hit,
// and no negative hit.
func match(m *state.Match, f *facts) bool {
	return !empty(m) &&
		(len(m.Namespaces) == 0 || hasText(m.Namespaces, f.namespace)) &&
		!hasText(m.NotNamespaces, f.namespace) &&
		(len(m.Principals) == 0 || f.hasPrincipal(m.Principals)) &&
		!f.hasPrincipal(m.NotPrincipals) &&
		(len(m.ServiceAccounts) == 0 || f.hasServiceAccount(m.ServiceAccounts)) &&
		!f.hasServiceAccount(m.NotServiceAccounts) &&
		(len(m.SourceIPs) == 0 || hasAddr(m.SourceIPs, f.source)) &&
		!hasAddr(m.NotSourceIPs, f.source) &&
		(len(m.DestinationIPs) == 0 || hasAddr(m.DestinationIPs, f.destination)) &&
		!hasAddr(m.NotDestinationIPs, f.destination) &&
		(len(m.DestinationPorts) == 0 || slices.Contains(m.DestinationPorts, f.port)) &&
		!slices.Contains(m.NotDestinationPorts, f.port)
}

func empty(m *state.Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.Principals)+len(m.NotPrincipals)+
		len(m.SourceIPs)+len(m.NotSourceIPs)+len(m.DestinationIPs)+len(m.NotDestinationIPs)+
		len(m.DestinationPorts)+len(m.NotDestinationPorts)+len(m.ServiceAccounts)+len(m.NotServiceAccounts) == 0
}

// hasPrincipal is false without an identity, whatever is asked.
func (f *facts) hasPrincipal(tests []state.StringMatch) bool {
	return f.authenticated && hasText(tests, f.principal)
}

// hasServiceAccount is false without an identity, whatever is asked. The trust domain plays no part.
func (f *facts) hasServiceAccount(accounts []state.ServiceAccount) bool {
	return f.authenticated && slices.Contains(accounts, f.serviceAccount)
}

func hasAddr(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

func hasText(tests []state.StringMatch, text string) bool {
	for i := range tests {
		if textMatches(&tests[i], text) {
			return true
		}
	}
	return false
}

func textMatches(test *state.StringMatch, text string) bool {
	switch test.Kind {
	case state.MatchExact:
		return text == test.Value
	case state.MatchPrefix:
		return strings.HasPrefix(text, test.Value)
	case state.MatchSuffix:
		return strings.HasSuffix(text, test.Value)
	case state.MatchPresence:
		return text != ""
	}
	return false
}
