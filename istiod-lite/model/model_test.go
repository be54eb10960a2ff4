package model

import (
	"fmt"
	"slices"
	"testing"
)

// town is a mesh in which everything has to do with something, and a bystander.
func town(t *testing.T) *Model {
	t.Helper()
	m := New(Settings{SystemNamespace: "istio-system", Domain: "cluster.local"})
	app := LabelsOf(map[string]string{"app": "a"})
	var changes []Change
	for _, object := range []Object{
		&Namespace{Name: "demo"},
		&Node{Name: "node1"},
		&Pod{Namespace: "demo", Name: "a", Labels: app, Node: "node1", ServiceAccount: "s"},
		&Pod{Namespace: "demo", Name: "by-hand", Node: "node2", ServiceAccount: "s"},
		&Pod{Namespace: "demo", Name: "bystander", Labels: LabelsOf(map[string]string{"app": "b"}), Node: "node3", ServiceAccount: "s"},
		&Pod{Namespace: "other", Name: "a", Labels: app, Node: "node3"},
		&Service{Namespace: "demo", Name: "svc", Selector: app},
		&Service{Namespace: "demo", Name: "bare"},
		&EndpointSlice{Namespace: "demo", Name: "slice", Service: "bare", Endpoints: []Endpoint{
			{Pod: Name{"demo", "by-hand"}}, {Node: "node2"},
		}},
		&ServiceEntry{Namespace: "demo", Name: "entry", Hosts: []string{"a.example.com"}, Selected: true, Selector: app},
		&ServiceEntry{Namespace: "other", Name: "rival", Hosts: []string{"a.example.com"}},
		&WorkloadEntry{Namespace: "demo", Name: "vm", EntryEndpoint: EntryEndpoint{Labels: LabelsOf(map[string]string{"app": "vm"}), Network: "far"}},
		&Gateway{Namespace: "demo", Name: "waypoint", Class: "class"},
		&Gateway{Namespace: "gates", Name: "to-far", Class: "istio-remote", Network: "far"},
		&Service{Namespace: "bound", Name: "svc", Binding: &Binding{Waypoint: Name{"demo", "waypoint"}}},
		&Pod{Namespace: "bound", Name: "a", Labels: LabelsOf(map[string]string{"istio.io/use-waypoint": "none"})},
		&Namespace{Name: "inherits", Binding: &Binding{Waypoint: Name{"demo", "waypoint"}}},
		&Service{Namespace: "inherits", Name: "svc"},
		&Pod{Namespace: "inherits", Name: "a"},
		&Pod{Namespace: "demo", Name: "instance", Labels: LabelsOf(map[string]string{GatewayNameLabel: "waypoint"})},
	} {
		changes = append(changes, Change{Key: object.Key(), Object: object})
	}
	m.Apply(changes)
	return m
}

func TestAChangeTouchesOnlyWhatDependsOnIt(t *testing.T) {
	app := LabelsOf(map[string]string{"app": "a"})
	for name, c := range map[string]struct {
		object Object
		want   []string // beside the object itself
	}{
		"nothing":                    {&Node{Name: "node1"}, nil},
		"a pod":                      {&Pod{Namespace: "demo", Name: "a", Node: "node9"}, nil},
		"a node":                     {&Node{Name: "node1", Locality: Locality{Zone: "z"}}, []string{"Pod demo/a"}},
		"a node of endpoints":        {&Node{Name: "node2", Locality: Locality{Zone: "z"}}, []string{"EndpointSlice demo/slice", "Pod demo/by-hand"}},
		"a namespace":                {&Namespace{Name: "demo", TrafficDistribution: "PreferClose"}, []string{"Gateway demo/waypoint", "Host demo/a.example.com", "Host demo/bare.demo.svc.cluster.local", "Host demo/svc.demo.svc.cluster.local", "Pod demo/a", "Service demo/bare", "Service demo/svc", "ServiceEntry demo/entry"}},
		"a service":                  {&Service{Namespace: "demo", Name: "svc", Selector: app, NodeLocal: true}, []string{"Host demo/svc.demo.svc.cluster.local", "Pod demo/a"}},
		"a service of other pods":    {&Service{Namespace: "demo", Name: "svc", Selector: LabelsOf(map[string]string{"app": "b"})}, []string{"Host demo/svc.demo.svc.cluster.local", "Pod demo/a", "Pod demo/bystander"}},
		"a service with a slice":     {&Service{Namespace: "demo", Name: "bare", NodeLocal: true}, []string{"EndpointSlice demo/slice", "Host demo/bare.demo.svc.cluster.local", "Pod demo/by-hand"}},
		"a slice":                    {&EndpointSlice{Namespace: "demo", Name: "slice", Service: "bare"}, []string{"Pod demo/by-hand"}},
		"a slice of chosen pods":     {&EndpointSlice{Namespace: "demo", Name: "new", Service: "svc", Endpoints: []Endpoint{{Pod: Name{"demo", "a"}}}}, nil},
		"a policy":                   {&AuthorizationPolicy{Namespace: "demo", Name: "p", Selected: true, Selector: app}, []string{"Pod demo/a"}},
		"a policy about a namespace": {&AuthorizationPolicy{Namespace: "demo", Name: "p"}, nil},
		"a policy of a gateway":      {&AuthorizationPolicy{Namespace: "demo", Name: "p", Selected: true, Selector: app, Targeted: true}, nil},
		"a policy of the root":       {&AuthorizationPolicy{Namespace: "istio-system", Name: "p", Selected: true, Selector: app}, []string{"Pod demo/a", "Pod other/a"}},
		"strictness of pods":         {&PeerAuthentication{Namespace: "demo", Name: "p", Selected: true, Selector: app}, []string{"Pod demo/a", "StaticStrict /"}},
		"strictness of a namespace":  {&PeerAuthentication{Namespace: "other", Name: "p"}, []string{"Pod other/a", "ServiceEntry other/rival", "StaticStrict /"}},
		"an entry": {&ServiceEntry{Namespace: "demo", Name: "entry", Hosts: []string{"b.example.com"}},
			[]string{"Host demo/a.example.com", "Host demo/b.example.com", "Host other/a.example.com", "Pod demo/a"}},
		"a workload entry": {&WorkloadEntry{Namespace: "demo", Name: "vm"}, nil},
		"a waypoint that gets ready": {&Gateway{Namespace: "demo", Name: "waypoint", Class: "class", Addresses: []GatewayAddress{{Host: "w"}}},
			[]string{"Host bound/svc.bound.svc.cluster.local", "Host inherits/svc.inherits.svc.cluster.local", "Pod demo/instance", "Service bound/svc", "Service inherits/svc"}},
		"a waypoint that takes workloads": {&Gateway{Namespace: "demo", Name: "waypoint", Class: "class", For: ForAll},
			[]string{"Host bound/svc.bound.svc.cluster.local", "Host inherits/svc.inherits.svc.cluster.local", "Pod demo/instance", "Pod inherits/a", "Service bound/svc", "Service inherits/svc"}},
		"a class": {&GatewayClass{Name: "class"},
			[]string{"Gateway demo/waypoint", "Host bound/svc.bound.svc.cluster.local", "Host inherits/svc.inherits.svc.cluster.local", "Pod demo/instance", "Service bound/svc", "Service inherits/svc"}},
		"a way into a network": {&Gateway{Namespace: "gates", Name: "to-far", Class: "istio-remote", Network: "far", Addresses: []GatewayAddress{{Host: "w"}}},
			[]string{"Network /far", "WorkloadEntry demo/vm"}},
		"an instance of a waypoint": {&Pod{Namespace: "demo", Name: "instance", ServiceAccount: "s", Labels: LabelsOf(map[string]string{GatewayNameLabel: "waypoint"})}, []string{"Gateway demo/waypoint"}},
		"the service of a waypoint": {&Service{Namespace: "demo", Name: "waypoint"}, []string{"Gateway demo/waypoint", "Host demo/waypoint.demo.svc.cluster.local"}},
		"a route at a waypoint": {&Route{Kind: KindHTTPRoute, Namespace: "demo", Name: "r", Parents: []ParentRef{{ObjectRef: ObjectRef{Group: RouteGroup, Kind: "Gateway", Name: Name{"demo", "waypoint"}}}}},
			[]string{"Gateway demo/waypoint"}},
		"another's mesh config": {&MeshConfig{Namespace: "demo", Name: "istio", TrustDomain: "x"}, nil},
		"an enrolment":          {&Enrolment{Node: "node1", Pods: map[Name]string{{"demo", "a"}: "1"}}, []string{"Pod demo/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, key := range town(t).Apply([]Change{{Key: c.object.Key(), Object: c.object}}) {
				if key != c.object.Key() {
					got = append(got, string(key.Kind)+" "+key.Name.String())
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("want %v, have %v", c.want, got)
			}
		})
	}
}

func TestRunsGoesByNodeAndAccount(t *testing.T) {
	m := town(t)
	account := Name{"demo", "s"}
	if !m.Runs("node1", account) || m.Runs("node9", account) || m.Runs("node1", Name{"other", "s"}) {
		t.Error("not by node and account")
	}
	m.Apply([]Change{{Key: Key{KindPod, Name{"demo", "a"}}, Object: &Pod{Namespace: "demo", Name: "a", Node: "node1", ServiceAccount: "s", Ended: true}}})
	if m.Runs("node1", account) {
		t.Error("an ended pod runs")
	}
	m.Apply([]Change{{Key: Key{KindPod, Name{"demo", "by-hand"}}}})
	if m.Runs("node2", account) {
		t.Error("a pod that went runs")
	}
}

func TestAPodDoesNotInheritTheEnrolmentOfOneThatHadItsName(t *testing.T) {
	m := New(Settings{SystemNamespace: "istio-system", Domain: "cluster.local"})
	enrolment := &Enrolment{Node: "node1", Pods: map[Name]string{{"demo", "a"}: "1"}}
	m.Apply([]Change{{Key: enrolment.Key(), Object: enrolment}})
	for _, c := range []struct {
		pod  Pod
		want bool
	}{
		{Pod{Namespace: "demo", Name: "a", Node: "node1", UID: "1"}, true},
		{Pod{Namespace: "demo", Name: "a", Node: "node1", UID: "2"}, false},
		{Pod{Namespace: "demo", Name: "a", Node: "node1"}, true}, // as a file written by hand has it
		{Pod{Namespace: "demo", Name: "a", Node: "node2", UID: "1"}, false},
		{Pod{Namespace: "demo", Name: "b", Node: "node1", UID: "1"}, false},
	} {
		if got := m.Enrolled(&c.pod); got != c.want {
			t.Errorf("%+v: %v", c.pod, got)
		}
	}
}

func TestCountsAreOfEachKind(t *testing.T) {
	m := town(t)
	for kind, want := range map[Kind]int{KindNamespace: 2, KindNode: 1, KindPod: 7, KindService: 4, KindServiceEntry: 2, KindWorkloadEntry: 1, KindGateway: 2, KindGatewayClass: 0, KindEndpointSlice: 1, KindAuthorizationPolicy: 0, KindPeerAuthentication: 0, KindEnrolment: 0, KindStaticStrict: 0} {
		m.View(func() {
			if got := m.Count(kind); got != want {
				t.Errorf("%s: want %d, have %d", kind, want, got)
			}
		})
	}
}

func TestPoliciesAreSortedWithoutALotOfGarbage(t *testing.T) {
	m := New(Settings{SystemNamespace: "istio-system"})
	var all []Object
	for i := range 1000 {
		all = append(all, &AuthorizationPolicy{Namespace: "demo", Name: fmt.Sprint("the-frontend-may-call-the-backend-", i), Selected: true, Selector: tagged("app=a")})
	}
	m.Apply(changesOf(all))
	if allocations := testing.AllocsPerRun(5, func() { m.PoliciesOf("demo", tagged("app=a")) }); allocations > 100 {
		t.Errorf("%.0f allocations for 1,000 policies", allocations)
	}
}
