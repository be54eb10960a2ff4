package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// dice makes policies of few values, so that they often hit.
type dice struct{ *rand.Rand }

func (d dice) texts() (tests []state.StringMatch) {
	for range d.IntN(3) {
		kind := state.MatchExact
		if d.IntN(4) == 0 {
			kind = state.MatchKind(d.IntN(4))
		}
		value := []string{"", "a", "b", "cluster.local/ns/a/sa/x", "cluster.local/ns/b/sa/x", "cluster.local/ns/a/sa/y"}[d.IntN(6)]
		tests = append(tests, state.StringMatch{Kind: kind, Value: value})
	}
	return tests
}

func (d dice) match() (m state.Match) {
	for _, list := range []*[]state.StringMatch{&m.Principals, &m.NotPrincipals, &m.Namespaces, &m.NotNamespaces} {
		if d.IntN(3) == 0 {
			*list = d.texts()
		}
	}
	if d.IntN(3) == 0 {
		m.ServiceAccounts = []state.ServiceAccount{{Namespace: "a", Name: []string{"x", "y"}[d.IntN(2)]}}
	}
	if d.IntN(3) == 0 {
		m.DestinationPorts = []uint16{80, uint16(80 + d.IntN(2))}
	}
	if d.IntN(4) == 0 {
		m.SourceIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}
	return m
}

func (d dice) policy(n int) *state.Policy {
	p := &state.Policy{Namespace: "n", Name: fmt.Sprint(n), Action: state.Action(d.IntN(2)), DryRun: d.IntN(5) == 0}
	if d.IntN(20) == 0 {
		p.Invalid, p.DryRun = fmt.Errorf("test"), false
	}
	for range d.IntN(3) {
		var group [][]state.Match
		for range d.IntN(3) {
			var rule []state.Match
			for range d.IntN(4) {
				rule = append(rule, d.match())
			}
			group = append(group, rule)
		}
		p.Groups = append(p.Groups, group)
	}
	return p
}

func (d dice) facts(t *testing.T) Facts {
	f := Facts{
		Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(9 + d.IntN(2)), 0, 0, 1}), 1),
		Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), uint16(80+d.IntN(3))),
	}
	if d.IntN(3) > 0 {
		id, err := identity.New("cluster.local", []string{"a", "b"}[d.IntN(2)], []string{"x", "y"}[d.IntN(2)])
		if err != nil {
			t.Fatal(err)
		}
		f.Peer = id
	}
	return f
}

func TestManyPoliciesSayWhatEachOfThemSays(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(1, 2))}
	verdicts := map[bool]int{}
	for range 3000 {
		var policies []*state.Policy
		for n := range fewPolicies + 1 + d.IntN(20) {
			policies = append(policies, d.policy(n))
		}
		facts := newFacts(d.facts(t))
		var want, got count
		for _, p := range policies {
			want.add(p.FullName(), p, &facts)
		}
		newIndex(policies).ask(&got, &facts)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("by index %+v, one after the other %+v, of %+v", got.verdict(), want.verdict(), facts)
		}
		verdicts[got.verdict().Allowed]++
	}
	if verdicts[true] < 50 || verdicts[false] < 50 {
		t.Errorf("the test is one-sided: %v", verdicts)
	}
}

func TestOnlyPoliciesThatCanHitAreAsked(t *testing.T) {
	var policies []*state.Policy
	for i := range 1000 {
		policies = append(policies, &state.Policy{Name: fmt.Sprint(i), Groups: [][][]state.Match{{{{
			Principals: []state.StringMatch{{Kind: state.MatchExact, Value: fmt.Sprint("cluster.local/ns/a/sa/", i)}}, DestinationPorts: []uint16{80},
		}}}}})
	}
	x := newIndex(policies)
	if len(x.always) != 0 || len(x.byKey) != 1000 {
		t.Errorf("%d are always asked, and there are %d keys", len(x.always), len(x.byKey))
	}
}
