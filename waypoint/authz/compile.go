package authz

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// Compile makes a policy of the control plane's. What of it can't be evaluated makes an ALLOW rule match nothing, and doesn't keep a rule of
// another action from matching; the error says what that is.
func Compile(origin *l7.Origin, p *l7.Policy) (*Policy, error) {
	out := &Policy{
		Name: origin.GetNamespace() + "/" + origin.GetName(), action: p.GetAction(), provider: p.GetProvider(), dryRun: p.GetDryRun(),
	}
	c := compilation{unknown: out.action != l7.Policy_ALLOW}
	switch out.action {
	case l7.Policy_ALLOW, l7.Policy_DENY, l7.Policy_AUDIT, l7.Policy_CUSTOM:
	default:
		out.rules = []rule{{}}
		return out, fmt.Errorf("policy %s has an action that isn't known, so it denies everything: update the waypoint", out.Name)
	}
	for i, r := range p.GetRules() {
		c.rule = i
		one := rule{}
		for _, source := range r.GetFrom() {
			one.from = append(one.from, c.source(source))
		}
		for _, operation := range r.GetTo() {
			one.to = append(one.to, c.operation(operation))
		}
		for _, when := range r.GetWhen() {
			one.when = append(one.when, c.condition(when))
		}
		out.rules = append(out.rules, one)
	}
	out.escaped = c.escaped
	if len(c.problems) > 0 {
		return out, fmt.Errorf("policy %s: %w", out.Name, errors.Join(c.problems...))
	}
	return out, nil
}

// compilation is of one policy.
type compilation struct {
	rule     int
	unknown  bool // what can't be evaluated fits
	escaped  bool
	problems []error
}

// unknownCondition takes the place of one that can't be read.
func (c *compilation) unknownCondition(format string, args ...any) condition {
	meaning := "so the rule allows nothing"
	if c.unknown {
		meaning = "so the rule matches whatever the rest of it does"
	}
	c.problems = append(c.problems, fmt.Errorf("rule %d: %w, %s", c.rule, fmt.Errorf(format, args...), meaning))
	return condition{attribute: unknown}
}

func (c *compilation) source(s *l7.Source) (all []condition) {
	all = c.values(all, attribute(l7.Condition_SOURCE_PRINCIPAL), s.GetPrincipals())
	all = c.values(all, attribute(l7.Condition_REQUEST_PRINCIPAL), s.GetRequestPrincipals())
	all = c.values(all, attribute(l7.Condition_SOURCE_NAMESPACE), s.GetNamespaces())
	all = c.values(all, attribute(l7.Condition_SOURCE_SERVICE_ACCOUNT), s.GetServiceAccounts())
	all = c.values(all, attribute(l7.Condition_SOURCE_TRUST_DOMAIN), s.GetTrustDomains())
	all = c.ranges(all, attribute(l7.Condition_SOURCE_IP), s.GetIpBlocks())
	return c.ranges(all, attribute(l7.Condition_REMOTE_IP), s.GetRemoteIpBlocks())
}

func (c *compilation) operation(o *l7.Operation) (all []condition) {
	all = c.values(all, host, o.GetHosts())
	all = c.values(all, method, o.GetMethods())
	all = c.values(all, path, o.GetPaths())
	if ports := o.GetPorts(); ports != nil {
		all = append(all, condition{attribute: attribute(l7.Condition_DESTINATION_PORT), anyPort: ports.GetAny(), noPort: ports.GetNone()})
	}
	return all
}

func (c *compilation) values(all []condition, a attribute, v *l7.Values) []condition {
	if v == nil {
		return all
	}
	return append(all, c.texts(condition{attribute: a}, v))
}

func (c *compilation) ranges(all []condition, a attribute, r *l7.Ranges) []condition {
	if r == nil {
		return all
	}
	return append(all, c.prefixes(condition{attribute: a}, r))
}

func (c *compilation) condition(w *l7.Condition) condition {
	out := condition{attribute: attribute(w.GetAttribute()), header: w.GetHeader(), claim: w.GetClaim()}
	switch w.GetAttribute() {
	case l7.Condition_SOURCE_IP, l7.Condition_REMOTE_IP, l7.Condition_DESTINATION_IP:
		return c.prefixes(out, w.GetRanges())
	case l7.Condition_DESTINATION_PORT:
		out.anyPort, out.noPort = w.GetPorts().GetAny(), w.GetPorts().GetNone()
		return out
	case l7.Condition_REQUEST_HEADER:
		if _, known := exchange.InFields(out.header); !known {
			return c.unknownCondition("%s is about a connection, not about what is asked", w.GetKey())
		}
	}
	if _, known := l7.Condition_Attribute_name[int32(out.attribute)]; !known || out.attribute == unknown {
		return c.unknownCondition("attribute %s isn't known", w.GetKey())
	}
	return c.texts(out, w.GetValues())
}

func (c *compilation) prefixes(out condition, r *l7.Ranges) condition {
	for _, list := range []struct {
		from []string
		to   *ranges
	}{{r.GetAny(), &out.anyRange}, {r.GetNone(), &out.noRange}} {
		for _, value := range list.from {
			prefix, err := netip.ParsePrefix(value)
			if err != nil {
				return c.unknownCondition("%w", err)
			}
			list.to.add(prefix)
		}
	}
	return out
}

func (c *compilation) texts(out condition, v *l7.Values) condition {
	for _, list := range []struct {
		from []*l7.StringMatch
		to   *texts
	}{{v.GetAny(), &out.any}, {v.GetNone(), &out.none}} {
		for _, m := range list.from {
			t, err := newText(out.attribute, m)
			if err != nil {
				return c.unknownCondition("%w", err)
			}
			list.to.add(t)
		}
		if out.attribute == path {
			list.to.decode()
			c.escaped = c.escaped || list.to.decoded != nil
		}
	}
	return out
}
