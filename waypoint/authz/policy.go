package authz

import (
	"errors"
	"fmt"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/index"
)

// Policy is a policy of a user's, compiled. It doesn't change.
type Policy struct {
	Name     string // "namespace/name"
	action   l7.Policy_Action
	provider string
	dryRun   bool
	rules    []rule
}

// rule matches if one of from, one of to, and all of when do; an empty list always does. Each of from and to does if all of its conditions do.
type rule struct {
	from, to [][]condition
	when     []condition
}

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
	if len(c.problems) > 0 {
		return out, fmt.Errorf("policy %s: %w", out.Name, errors.Join(c.problems...))
	}
	return out, nil
}

// told tells that nothing is enforced.
func (p *Policy) told() bool { return p.dryRun || p.action == l7.Policy_AUDIT }

func (p *Policy) allows() bool { return p.action == l7.Policy_ALLOW }

func (p *Policy) denial() string {
	switch p.action {
	case l7.Policy_DENY:
		return "denied by policy " + p.Name
	case l7.Policy_CUSTOM:
		return fmt.Sprintf("policy %s asks provider %q, which isn't known", p.Name, p.provider)
	}
	return "policy " + p.Name + " has an action that isn't known, so it denies"
}

func (p *Policy) matches(f *view) bool {
	for i := range p.rules {
		if p.rules[i].matches(f, p) {
			return true
		}
	}
	return false
}

func (r *rule) matches(f *view, p *Policy) bool {
	unknown := !p.allows()
	return anyOf(r.from, f, unknown) && anyOf(r.to, f, unknown) && allOf(r.when, f, unknown)
}

func anyOf(alternatives [][]condition, f *view, unknown bool) bool {
	for _, all := range alternatives {
		if allOf(all, f, unknown) {
			return true
		}
	}
	return len(alternatives) == 0
}

func allOf(conditions []condition, f *view, unknown bool) bool {
	for i := range conditions {
		if !conditions[i].fits(f, unknown) {
			return false
		}
	}
	return true
}

// keys are those of which a request has one of each set if the rule matches.
func (r *rule) keys() (e index.Entry) {
	add := func(alternatives [][]condition) {
		for _, attribute := range keyed {
			if keys := keysOf(alternatives, attribute); len(keys) > 0 {
				e = append(e, keys)
			}
		}
	}
	add(r.from)
	add(r.to)
	for i := range r.when {
		add([][]condition{r.when[i : i+1]})
	}
	return e
}

// keysOf are the keys of an attribute that all alternatives have; none if one hasn't.
func keysOf(alternatives [][]condition, a attribute) (keys []index.Key) {
	for _, all := range alternatives {
		found := false
		for i := range all {
			if more := all[i].keys(); all[i].attribute == a && len(more) > 0 {
				keys, found = append(keys, more...), true
				break
			}
		}
		if !found {
			return nil
		}
	}
	return keys
}
