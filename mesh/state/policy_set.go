package state

import "sync/atomic"

// PolicySet is policies that are for the same workloads. A change of any of them makes another set, so that equal pointers
// mean equal policies. It may be nil.
type PolicySet struct {
	policies []*Policy // ordered by namespace and name
	prepared atomic.Value
}

// Policies returns the policies, ordered by namespace and name.
func (s *PolicySet) Policies() []*Policy {
	if s == nil {
		return nil
	}
	return s.policies
}

// Prepared returns what prepare makes of the policies, always of one type; nil if there are none. That is kept with the set,
// for the next caller. Two first callers at once make it twice.
func (s *PolicySet) Prepared(prepare func([]*Policy) any) any {
	if s == nil {
		return nil
	}
	if ready := s.prepared.Load(); ready != nil {
		return ready
	}
	ready := prepare(s.policies)
	s.prepared.Store(ready)
	return ready
}

func (s *PolicySet) with(p *Policy) *PolicySet {
	return &PolicySet{policies: inserted(s.Policies(), p, comparePolicies)}
}

// without returns nil when nothing is left.
func (s *PolicySet) without(p *Policy) *PolicySet {
	left := without(s.Policies(), p)
	if len(left) == 0 {
		return nil
	}
	return &PolicySet{policies: left}
}

// preparePolicies prepares the sets that changes have made.
func (t *Table) preparePolicies(c changes, prepare func([]*Policy) any) {
	if len(c.policies)+len(c.removedPolicies) > 0 {
		t.global.Prepared(prepare)
	}
	for _, p := range c.policies {
		t.namespace.get(p.Namespace).Prepared(prepare)
	}
	for _, name := range c.removedPolicies {
		name, _ := parseName(name)
		t.namespace.get(name.Namespace).Prepared(prepare)
	}
}
