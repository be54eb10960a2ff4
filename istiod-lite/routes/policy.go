package routes

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

var actions = map[model.Action]l7.Policy_Action{
	model.Allow: l7.Policy_ALLOW, model.Deny: l7.Policy_DENY, model.Audit: l7.Policy_AUDIT, model.Custom: l7.Policy_CUSTOM,
}

// policy makes what waypoints enforce of a policy with targets.
func (t translation) policy(p *model.AuthorizationPolicy) Result {
	out := &l7.Policy{Action: actions[p.Action], Provider: p.Provider, DryRun: p.DryRun}
	var unknown []string
	for i := range p.Rules {
		rule := &p.Rules[i]
		one := &l7.PolicyRule{}
		for j := range rule.From {
			one.From = append(one.From, source(&rule.From[j]))
		}
		for j := range rule.To {
			one.To = append(one.To, operation(&rule.To[j]))
		}
		for j := range rule.When {
			when := condition(p.Namespace, &rule.When[j])
			if when.Attribute == l7.Condition_UNKNOWN {
				unknown = append(unknown, fmt.Sprintf("rule %d: waypoints don't know %s, so the rule %s", i, when.Key, unknownMeans(p.Action)))
			}
			one.When = append(one.When, when)
		}
		out.Rules = append(out.Rules, one)
	}
	resource := &l7.Resource{Schema: schema, Origin: origin(p.Key()), Kind: &l7.Resource_Policy{Policy: out}}
	return t.targeted(p.Key(), p.Targets, resource, unknown)
}

func unknownMeans(action model.Action) string {
	if action == model.Allow {
		return "allows nothing"
	}
	return "matches whatever the rest of it does"
}

func source(s *model.Source) *l7.Source {
	return &l7.Source{
		Principals:        values(s.Principals, s.NotPrincipals, principal),
		RequestPrincipals: values(s.RequestPrincipals, s.NotRequestPrincipals, text),
		Namespaces:        values(s.Namespaces, s.NotNamespaces, text),
		ServiceAccounts:   values(accounts(s.ServiceAccounts), accounts(s.NotServiceAccounts), exact),
		TrustDomains:      values(s.TrustDomains, s.NotTrustDomains, text),
		IpBlocks:          ranges(s.IPs, s.NotIPs),
		RemoteIpBlocks:    ranges(s.RemoteIPs, s.NotRemoteIPs),
	}
}

func accounts(list []model.Name) []string {
	var out []string
	for _, name := range list {
		out = append(out, name.String())
	}
	return out
}

func operation(o *model.Operation) *l7.Operation {
	return &l7.Operation{
		Hosts:   values(o.Hosts, o.NotHosts, func(value string) *l7.StringMatch { return text(strings.ToLower(value)) }),
		Ports:   ports(o.Ports, o.NotPorts),
		Methods: values(o.Methods, o.NotMethods, text),
		Paths:   values(o.Paths, o.NotPaths, path),
	}
}

// attributes are those of conditions that have no part in brackets.
var attributes = map[string]l7.Condition_Attribute{
	model.SourceIP: l7.Condition_SOURCE_IP, model.RemoteIP: l7.Condition_REMOTE_IP, model.SourceNamespace: l7.Condition_SOURCE_NAMESPACE,
	model.SourceServiceAccount: l7.Condition_SOURCE_SERVICE_ACCOUNT, model.SourceTrustDomain: l7.Condition_SOURCE_TRUST_DOMAIN,
	model.SourcePrincipal: l7.Condition_SOURCE_PRINCIPAL, model.DestinationIP: l7.Condition_DESTINATION_IP,
	model.DestinationPort: l7.Condition_DESTINATION_PORT, model.ConnectionSNI: l7.Condition_CONNECTION_SNI,
	model.RequestPrincipal: l7.Condition_REQUEST_PRINCIPAL, model.RequestAudiences: l7.Condition_REQUEST_AUDIENCES,
	model.RequestPresenter: l7.Condition_REQUEST_PRESENTER,
}

func condition(namespace string, w *model.When) *l7.Condition {
	out := &l7.Condition{
		Key: w.Attribute, Attribute: attributes[w.Attribute],
		Ranges: ranges(w.IPs, w.NotIPs), Ports: ports(w.Ports, w.NotPorts),
	}
	match := text
	switch {
	case out.Attribute == l7.Condition_SOURCE_PRINCIPAL:
		match = principal
	case out.Attribute == l7.Condition_SOURCE_SERVICE_ACCOUNT:
		match = func(value string) *l7.StringMatch {
			if !strings.Contains(value, "/") {
				value = namespace + "/" + value
			}
			return exact(value)
		}
	case strings.HasPrefix(w.Attribute, model.RequestHeader+"["):
		out.Attribute = l7.Condition_REQUEST_HEADER
		out.Header = strings.ToLower(brackets(w.Attribute)[0])
	case strings.HasPrefix(w.Attribute, model.RequestClaim+"["):
		out.Attribute, out.Claim = l7.Condition_REQUEST_CLAIM, brackets(w.Attribute)
	}
	out.Values = values(w.Values, w.Not, match)
	return out
}

// brackets returns the parts of a[b][c] behind a; there is at least one.
func brackets(attribute string) []string {
	_, rest, _ := strings.Cut(attribute, "[")
	return strings.Split(strings.TrimSuffix(rest, "]"), "][")
}

// values is nil where there are none.
func values(any, none []string, match func(string) *l7.StringMatch) *l7.Values {
	if len(any)+len(none) == 0 {
		return nil
	}
	out := &l7.Values{}
	for _, value := range any {
		out.Any = append(out.Any, match(value))
	}
	for _, value := range none {
		out.None = append(out.None, match(value))
	}
	return out
}

// text reads a star alone, before, or behind.
func text(value string) *l7.StringMatch {
	if value == "*" {
		return &l7.StringMatch{Match: &l7.StringMatch_Present{Present: true}}
	}
	if suffix, ok := strings.CutPrefix(value, "*"); ok {
		return &l7.StringMatch{Match: &l7.StringMatch_Suffix{Suffix: suffix}}
	}
	if prefix, ok := strings.CutSuffix(value, "*"); ok {
		return &l7.StringMatch{Match: &l7.StringMatch_Prefix{Prefix: prefix}}
	}
	return exact(value)
}

func exact(value string) *l7.StringMatch {
	return &l7.StringMatch{Match: &l7.StringMatch_Exact{Exact: value}}
}

// principal is compared without its scheme.
func principal(value string) *l7.StringMatch { return text(strings.TrimPrefix(value, "spiffe://")) }

func path(value string) *l7.StringMatch {
	if strings.Contains(value, "{") {
		return &l7.StringMatch{Match: &l7.StringMatch_Template{Template: value}}
	}
	return text(value)
}

func ranges(any, none []netip.Prefix) *l7.Ranges {
	if len(any)+len(none) == 0 {
		return nil
	}
	out := &l7.Ranges{}
	for _, prefix := range any {
		out.Any = append(out.Any, prefix.String())
	}
	for _, prefix := range none {
		out.None = append(out.None, prefix.String())
	}
	return out
}

func ports(any, none []uint16) *l7.Ports {
	if len(any)+len(none) == 0 {
		return nil
	}
	out := &l7.Ports{}
	for _, port := range any {
		out.Any = append(out.Any, uint32(port))
	}
	for _, port := range none {
		out.None = append(out.None, uint32(port))
	}
	return out
}
