package cluster

import (
	"testing"
)

func TestNetworksOfClustersDontOverlap(t *testing.T) {
	type network interface{ String() string }
	seen := map[string]int{}
	for number := range 10 {
		s := Spec{Name: "x", Number: number, Nodes: 9}
		if err := s.check(); err != nil {
			t.Fatal(err)
		}
		all := []network{s.Fabric(), s.Services()}
		for node := 1; node <= s.Nodes; node++ {
			all = append(all, s.Address(node), s.Pods(node))
			if !s.AllPods().Contains(s.Pods(node).Addr()) {
				t.Errorf("cluster %d: %s isn't in %s", number, s.Pods(node), s.AllPods())
			}
		}
		for _, n := range all {
			if other, taken := seen[n.String()]; taken {
				t.Errorf("clusters %d and %d both have %s", number, other, n)
			}
			seen[n.String()] = number
		}
		if !s.Services().Contains(s.DNS()) || !s.Services().Contains(s.Kubernetes()) {
			t.Errorf("cluster %d: %s and %s aren't in %s", number, s.DNS(), s.Kubernetes(), s.Services())
		}
	}
}

func TestSpecsThatCantBeAreRefused(t *testing.T) {
	for name, s := range map[string]Spec{
		"a name that is a path": {Name: "../x", Nodes: 1}, "no name": {Nodes: 1}, "no nodes": {Name: "x"}, "ten nodes": {Name: "x", Nodes: 10},
		"a number without networks": {Name: "x", Nodes: 1, Number: 10},
	} {
		if s.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
