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
// policy or if one matches. Policies with DryRun decide nothing. Allowing allocates nothing, but for the names of DryRun. Where
// the state of the mesh is incomplete it refuses: if dst lists a policy that isn't known, or a DENY policy is invalid; an ALLOW
// policy that is invalid allows nothing.
func Evaluate(t *state.Table, dst *state.Workload, f Facts) Verdict {
	facts := newFacts(f)
	var c count
	global, namespace := t.PolicySets(dst)
	for _, set := range [...]*state.PolicySet{global, namespace} {
		x, _ := set.Prepared(Prepare).(*index)
		x.ask(&c, &facts)
	}
	for name, p := range t.ListedPolicies(dst) {
		c.add(name, p, &facts)
	}
	return c.verdict()
}

// count is what the policies say together.
type count struct {
	denies  *state.Policy // the first DENY that hits
	pending bool          // there is a name that isn't known
	missing string        // the first of those
	allow   bool          // there is an ALLOW
	allows  *state.Policy // the first ALLOW that hits
	dryRun  []string
}

func (c *count) add(name string, p *state.Policy, f *facts) {
	switch {
	case p == nil:
		if !c.pending {
			c.pending, c.missing = true, name
		}
	case p.DryRun:
		if hits(p, f) {
			c.dryRun = append(c.dryRun, name)
		}
	case p.Action == state.Allow:
		c.allow = true
		if c.allows == nil && hits(p, f) {
			c.allows = p
		}
	case c.denies == nil && hits(p, f):
		c.denies = p
	}
}

func (c *count) verdict() Verdict {
	v := Verdict{DryRun: c.dryRun}
	switch {
	case c.denies != nil:
		v.Policy, v.Reason = c.denies.FullName(), denial(c.denies)
	case c.pending: // it may be a DENY
		v.Policy, v.Reason, v.Pending = c.missing, "policy "+c.missing+" is not known yet", true
	case c.allows != nil:
		v.Allowed, v.Policy = true, c.allows.FullName()
	case c.allow:
		v.Reason = "allow policies exist, but none allowed"
	default:
		v.Allowed = true
	}
	return v
}

func denial(p *state.Policy) string {
	if p.Invalid != nil {
		return "policy " + p.FullName() + " is invalid, so it denies: " + p.Invalid.Error()
	}
	return "denied by policy " + p.FullName()
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
