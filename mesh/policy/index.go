package policy

import (
	"slices"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// fewPolicies are asked one after the other, which is faster than to look them up.
const fewPolicies = 8

// index tells which policies of a set a connection can hit: all others need not be asked. Positions are those in the set,
// in ascending order.
type index struct {
	policies []*state.Policy
	allow    bool    // there is an ALLOW that is enforced
	always   []int32 // what has to be asked whatever the connection is
	byKey    map[key][]int32
}

// key is an attribute with a value, without which a match is false.
type key struct {
	kind attribute
	a, b string
	port uint16
}

// attribute is what a key is about, the most telling first.
type attribute uint8

const (
	byPrincipal attribute = iota
	byAccount
	byNamespace
	byPort
	unkeyed // it has none of those
)

// keys are the keys that a connection has.
func (f *facts) keys() [4]key {
	return [...]key{
		{kind: byPrincipal, a: f.principal},
		{kind: byAccount, a: f.serviceAccount.Namespace, b: f.serviceAccount.Name},
		{kind: byNamespace, a: f.namespace},
		{kind: byPort, port: f.port},
	}
}

// Prepare makes what Evaluate needs of a set of policies; for state.Store.Prepare.
func Prepare(policies []*state.Policy) any { return newIndex(policies) }

func newIndex(policies []*state.Policy) *index {
	x := &index{policies: policies}
	for _, p := range policies {
		x.allow = x.allow || p.Action == state.Allow && !p.DryRun
	}
	if len(policies) <= fewPolicies {
		for i := range policies {
			x.always = append(x.always, int32(i))
		}
		return x
	}
	x.byKey = map[key][]int32{}
	for i, p := range policies {
		keys, ok := policyKeys(p)
		if !ok {
			x.always = append(x.always, int32(i))
		}
		for _, k := range keys {
			if list := x.byKey[k]; len(list) == 0 || list[len(list)-1] != int32(i) {
				x.byKey[k] = append(list, int32(i))
			}
		}
	}
	return x
}

// policyKeys returns keys of which a connection has one if the policy hits. ok is false if there are none.
func policyKeys(p *state.Policy) (keys []key, ok bool) {
	if p.Invalid != nil {
		return nil, false
	}
	for _, rules := range p.Groups {
		best, kind := []key(nil), unkeyed
		for _, rule := range rules { // all of them have to be true, so one is enough
			if k, worst := ruleKeys(rule); worst < kind {
				best, kind = k, worst
			}
		}
		if kind == unkeyed {
			return nil, false
		}
		keys = append(keys, best...)
	}
	return keys, true
}

// ruleKeys returns the keys of all matches of a rule, and the least telling attribute among them.
func ruleKeys(rule []state.Match) (keys []key, worst attribute) {
	if len(rule) == 0 {
		return nil, unkeyed // it is always true
	}
	for i := range rule {
		k, kind := matchKeys(&rule[i])
		keys, worst = append(keys, k...), max(worst, kind)
	}
	return keys, worst
}

func matchKeys(m *state.Match) (keys []key, kind attribute) {
	switch {
	case exact(m.Principals):
		for _, test := range m.Principals {
			keys = append(keys, key{kind: byPrincipal, a: test.Value})
		}
		return keys, byPrincipal
	case len(m.ServiceAccounts) > 0:
		for _, account := range m.ServiceAccounts {
			keys = append(keys, key{kind: byAccount, a: account.Namespace, b: account.Name})
		}
		return keys, byAccount
	case exact(m.Namespaces):
		for _, test := range m.Namespaces {
			keys = append(keys, key{kind: byNamespace, a: test.Value})
		}
		return keys, byNamespace
	case len(m.DestinationPorts) > 0:
		for _, port := range m.DestinationPorts {
			keys = append(keys, key{kind: byPort, port: port})
		}
		return keys, byPort
	}
	return nil, unkeyed
}

// exact tells that there are tests, all for one text each.
func exact(tests []state.StringMatch) bool {
	return len(tests) > 0 && !slices.ContainsFunc(tests, func(t state.StringMatch) bool { return t.Kind != state.MatchExact })
}

// ask counts what the policies of the set say that a connection can hit, in their order and each once. No index is one of
// no policies.
func (x *index) ask(c *count, f *facts) {
	if x == nil {
		return
	}
	c.allow = c.allow || x.allow
	lists := [5][]int32{x.always}
	if x.byKey != nil {
		for i, k := range f.keys() {
			lists[1+i] = x.byKey[k]
		}
	}
	for {
		next := int32(-1)
		for _, list := range lists {
			if len(list) > 0 && (next < 0 || list[0] < next) {
				next = list[0]
			}
		}
		if next < 0 {
			return
		}
		for i := range lists {
			if len(lists[i]) > 0 && lists[i][0] == next {
				lists[i] = lists[i][1:]
			}
		}
		c.add(x.policies[next].FullName(), x.policies[next], f)
	}
}
