package authz

import (
	"fmt"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Policy is a policy of a user's, compiled. It doesn't change.
type Policy struct {
	Name     string // "namespace/name"
	action   l7.Policy_Action
	provider string
	dryRun   bool
	rules    []rule
	escaped  bool // a path in it has escapes
}

// rule matches if one of from, one of to, and all of when do; an empty list always does. Each of from and to does if all of its conditions do.
type rule struct {
	from, to [][]condition
	when     []condition
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
	unknown := p.allows() == f.hopeful
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
