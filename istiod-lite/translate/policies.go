package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/security"
)

const (
	policyAccepted   = "Accepted"
	unsupportedValue = "UnsupportedValue"
)

// published tells whether an L4 proxy gets the policy at all.
func (mesh Mesh) published(p *model.AuthorizationPolicy) bool {
	return !p.Targeted && mesh.refused(p) == ""
}

// refused says why L4 proxies can't have a policy; empty if they can.
func (mesh Mesh) refused(p *model.AuthorizationPolicy) string {
	switch {
	case p.Action != model.Allow && p.Action != model.Deny:
		return fmt.Sprintf("action %s is not for L4 proxies: the policy has no effect there, attach it to a waypoint by targetRefs", p.Action)
	case p.DryRun && !mesh.DryRun:
		return "dry runs are not allowed in L4 proxies, of which older ones would enforce the policy: it has no effect there"
	}
	return ""
}

// authorization makes what an L4 proxy can enforce of a policy. What it cannot see, attributes of requests, makes an
// ALLOW rule vanish, so that it never allows, and is left out of a DENY rule. See l7 for what that means.
func (mesh Mesh) authorization(m *model.Model, p *model.AuthorizationPolicy) Result {
	if p.Targeted {
		return Result{} // for waypoints and gateways, which have their own resources
	}
	if why := mesh.refused(p); why != "" {
		return Result{
			Notes:      []Note{{p.Key(), why}},
			Conditions: []model.Condition{{Type: model.ZtunnelAccepted, Reason: unsupportedValue, Message: why}},
		}
	}
	out := &security.Authorization{
		Name: p.Name, Namespace: p.Namespace, Scope: scope(m, p), Action: security.Action_ALLOW, DryRun: p.DryRun,
	}
	if p.Action == model.Deny {
		out.Action = security.Action_DENY
	}
	for i := range p.Rules {
		rule := &p.Rules[i]
		if p.Action == model.Allow && len(l7(rule)) > 0 {
			continue
		}
		out.Groups = append(out.Groups, &security.Group{Rules: clauses(rule)})
	}
	result := one(policyResource(out))
	result.Notes = notes(p)
	result.Conditions = []model.Condition{enforced(result.Notes)}
	return result
}

// enforced is the condition of a policy that L4 proxies have, with what they can't see of it.
func enforced(notes []Note) model.Condition {
	c := model.Condition{Type: model.ZtunnelAccepted, Status: true, Reason: policyAccepted, Message: "L4 proxies enforce the policy"}
	if len(notes) > 0 {
		var texts []string
		for _, note := range notes {
			texts = append(texts, note.Text)
		}
		c.Reason, c.Message = unsupportedValue, strings.Join(texts, "; ")
	}
	return c
}

func scope(m *model.Model, p *model.AuthorizationPolicy) security.Scope {
	switch {
	case p.Selected:
		return security.Scope_WORKLOAD_SELECTOR
	case p.Namespace == m.RootNamespace():
		return security.Scope_GLOBAL
	}
	return security.Scope_NAMESPACE
}

// l7 lists the attributes of a rule that need a look into requests, each once.
func l7(rule *model.Rule) []string {
	var list []string
	for i := range rule.To {
		list = append(list, rule.To[i].L7...)
	}
	for i := range rule.From {
		list = append(list, rule.From[i].L7...)
	}
	for i := range rule.When {
		if c := &rule.When[i]; !c.IsL4() {
			list = append(list, c.Attribute)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// maxNotes bounds what is said of one policy or entry.
const maxNotes = 8

// notes says what became of the rules that an L4 proxy can't enforce as written.
func notes(p *model.AuthorizationPolicy) []Note {
	var list []Note
	for i := range p.Rules {
		attributes := l7(&p.Rules[i])
		if len(attributes) == 0 {
			continue
		}
		if len(list) == maxNotes {
			return append(list, Note{p.Key(), "further rules are like these"})
		}
		effect := "the rule allows nothing"
		if p.Action == model.Deny {
			effect = "the rule denies more than asked"
			if slices.ContainsFunc(clauses(&p.Rules[i]), neverTrue) {
				effect = "the rule denies nothing"
			}
		}
		list = append(list, Note{p.Key(), fmt.Sprintf("rule %d: L4 proxies don't see %s: %s, use a waypoint", i, strings.Join(attributes, ", "), effect)})
	}
	return list
}

// neverTrue tells whether all matches of a clause are empty, which never match.
func neverTrue(clause *security.Rules) bool {
	return !slices.ContainsFunc(clause.Matches, func(match *security.Match) bool {
		return !isEmpty(match)
	})
}

func isEmpty(m *security.Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.Principals)+len(m.NotPrincipals)+len(m.ServiceAccounts)+
		len(m.NotServiceAccounts)+len(m.SourceIps)+len(m.NotSourceIps)+len(m.DestinationIps)+len(m.NotDestinationIps)+
		len(m.DestinationPorts)+len(m.NotDestinationPorts) == 0
}

// clauses are all needed: one for what is called, one for who calls, one per condition. Within one, matches are
// alternatives. A rule without any clause matches everything, so a match that lost all of its attributes stays in, empty:
// it never matches.
func clauses(rule *model.Rule) []*security.Rules {
	var list []*security.Rules
	if len(rule.To) > 0 {
		clause := &security.Rules{}
		for i := range rule.To {
			clause.Matches = append(clause.Matches, &security.Match{
				DestinationPorts: ports(rule.To[i].Ports), NotDestinationPorts: ports(rule.To[i].NotPorts),
			})
		}
		list = append(list, clause)
	}
	if len(rule.From) > 0 {
		clause := &security.Rules{}
		for i := range rule.From {
			clause.Matches = append(clause.Matches, source(&rule.From[i]))
		}
		list = append(list, clause)
	}
	for i := range rule.When {
		list = append(list, &security.Rules{Matches: []*security.Match{condition(&rule.When[i])}})
	}
	return list
}

func source(s *model.Source) *security.Match {
	return &security.Match{
		Namespaces: strs(s.Namespaces), NotNamespaces: strs(s.NotNamespaces),
		Principals: principals(s.Principals), NotPrincipals: principals(s.NotPrincipals),
		ServiceAccounts: accounts(s.ServiceAccounts), NotServiceAccounts: accounts(s.NotServiceAccounts),
		SourceIps: ranges(s.IPs), NotSourceIps: ranges(s.NotIPs),
	}
}

func condition(c *model.When) *security.Match {
	match := &security.Match{}
	switch c.Attribute {
	case model.SourceIP:
		match.SourceIps, match.NotSourceIps = ranges(c.IPs), ranges(c.NotIPs)
	case model.DestinationIP:
		match.DestinationIps, match.NotDestinationIps = ranges(c.IPs), ranges(c.NotIPs)
	case model.DestinationPort:
		match.DestinationPorts, match.NotDestinationPorts = ports(c.Ports), ports(c.NotPorts)
	case model.SourceNamespace:
		match.Namespaces, match.NotNamespaces = strs(c.Values), strs(c.Not)
	case model.SourcePrincipal:
		match.Principals, match.NotPrincipals = principals(c.Values), principals(c.Not)
	}
	return match
}

func ports(list []uint16) []uint32 {
	var out []uint32
	for _, port := range list {
		out = append(out, uint32(port))
	}
	return out
}

func ranges(list []netip.Prefix) []*security.Address {
	var out []*security.Address
	for _, prefix := range list {
		out = append(out, &security.Address{Address: prefix.Addr().AsSlice(), Length: uint32(prefix.Bits())})
	}
	return out
}

func accounts(list []model.Name) []*security.ServiceAccountMatch {
	var out []*security.ServiceAccountMatch
	for _, name := range list {
		out = append(out, &security.ServiceAccountMatch{Namespace: name.Namespace, ServiceAccount: name.Name})
	}
	return out
}

// principals are compared without their scheme.
func principals(list []string) []*security.StringMatch {
	var out []*security.StringMatch
	for _, value := range list {
		out = append(out, str(strings.TrimPrefix(value, "spiffe://")))
	}
	return out
}

func strs(list []string) []*security.StringMatch {
	var out []*security.StringMatch
	for _, value := range list {
		out = append(out, str(value))
	}
	return out
}

// str reads a star alone, before, or behind.
func str(value string) *security.StringMatch {
	if value == "*" {
		return present()
	}
	if suffix, ok := strings.CutPrefix(value, "*"); ok {
		return &security.StringMatch{MatchType: &security.StringMatch_Suffix{Suffix: suffix}}
	}
	if prefix, ok := strings.CutSuffix(value, "*"); ok {
		return &security.StringMatch{MatchType: &security.StringMatch_Prefix{Prefix: prefix}}
	}
	return &security.StringMatch{MatchType: &security.StringMatch_Exact{Exact: value}}
}

// present matches any value but none.
func present() *security.StringMatch {
	return &security.StringMatch{MatchType: &security.StringMatch_Presence{Presence: &emptypb.Empty{}}}
}
