package model

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// claimants are two namespaces with three ServiceEntries of the same two hosts each; the names say their age, over both
// namespaces. Namespaces may hide theirs.
func claimants() *Model {
	m := New(Settings{SystemNamespace: "istio-system", Domain: "cluster.local"})
	m.Apply(changesOf([]Object{&MeshConfig{Namespace: "istio-system", Name: "istio", EntryVisibility: &EntryVisibility{Rules: []VisibilityRule{
		{OwnNamespace, []Selector{{Labels: tagged("hide=yes")}}}, {Nobody, []Selector{{Labels: tagged("hide=all")}}},
	}}}}))
	for i, namespace := range []string{"a", "b"} {
		m.Apply(changesOf([]Object{
			&Namespace{Name: namespace}, claimant(namespace, 3*i), claimant(namespace, 3*i+1), claimant(namespace, 3*i+2),
			&Pod{Namespace: namespace, Name: "pod", Labels: tagged(fmt.Sprintf("e%d=x", 3*i+1))},
		}))
	}
	return m
}

func claimant(namespace string, age int) *ServiceEntry {
	name := fmt.Sprint("e", age)
	return &ServiceEntry{
		Namespace: namespace, Name: name, Created: time.Unix(int64(age), 0), Hosts: []string{"h.example.com", "s." + namespace + ".svc.cluster.local"},
		Selected: true, Selector: tagged(name + "=x"),
	}
}

func TestOfManyWhoClaimAHostOnlyThoseAreTranslatedForWhomItChanges(t *testing.T) {
	renamed := func(e *ServiceEntry, hosts ...string) *ServiceEntry {
		e.Hosts = hosts
		return e
	}
	with := func(some []string, more ...string) []string { return slices.Concat(some, more) }
	newer := claimant("a", 0)
	newer.Generation++
	later := claimant("a", 0)
	later.Created = time.Unix(99, 0)
	hostsOfA := []string{"Host a/h.example.com", "Host a/s.a.svc.cluster.local"}
	allOfA := with(hostsOfA, "ServiceEntry a/e0", "ServiceEntry a/e1", "ServiceEntry a/e2")
	for name, c := range map[string]struct {
		change Change
		want   []string // beside the object itself
	}{
		"the owner changes":         {Change{newer.Key(), newer}, hostsOfA},
		"the owner goes":            {Change{Key: newer.Key()}, with(hostsOfA, "Pod a/pod", "ServiceEntry a/e1")},
		"the owner grows young":     {Change{later.Key(), later}, with(hostsOfA, "Pod a/pod", "ServiceEntry a/e1")},
		"the owner leaves one host": {Change{newer.Key(), renamed(claimant("a", 0), "h.example.com")}, with(hostsOfA, "Pod a/pod", "ServiceEntry a/e1")},
		"a younger one goes":        {Change{Key: claimant("a", 2).Key()}, hostsOfA},
		"another comes":             {Change{claimant("a", 9).Key(), claimant("a", 9)}, hostsOfA},
		"an older one comes": {Change{claimant("b", -1).Key(), claimant("b", -1)},
			[]string{"Host a/h.example.com", "Host b/h.example.com", "Host b/s.b.svc.cluster.local", "ServiceEntry b/e3"}},
		"a service comes": {Change{Key{KindService, Name{"a", "s"}}, &Service{Namespace: "a", Name: "s"}},
			[]string{"Host a/s.a.svc.cluster.local", "ServiceEntry a/e0"}},
		"nobody else sees them": {Change{Key{KindNamespace, Name{Name: "a"}}, &Namespace{Name: "a", Labels: tagged("hide=yes")}},
			with(allOfA, "Host b/h.example.com", "Pod a/pod")},
		"nobody sees them": {Change{Key{KindNamespace, Name{Name: "a"}}, &Namespace{Name: "a", Labels: tagged("hide=all")}},
			with(allOfA, "Host b/h.example.com", "Pod a/pod")},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, key := range claimants().Apply([]Change{c.change}) {
				if key != c.change.Key {
					got = append(got, string(key.Kind)+" "+key.Name.String())
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(c.want))
			if !slices.Equal(got, want) {
				t.Errorf("want %v, have %v", want, got)
			}
		})
	}
}
