package push

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// waypointOf knows the pods wp-… of namespace shop as instances of the waypoint wp.
func waypointOf(caller Caller, pod string) (Waypoint, error) {
	if !strings.HasPrefix(pod, "wp-") || caller.Account() != "shop/wp" {
		return Waypoint{}, errors.New("no such pod")
	}
	return shopWaypoint, nil
}

var shopWaypoint = Waypoint{Gateway: "shop/wp", Class: "istio-waypoint", Service: "shop/s/wp.svc", Namespace: "shop", RootNamespace: "root"}

// asWaypoint runs a test with a waypoint connected.
func asWaypoint(t *testing.T, test func(*bench)) {
	t.Helper()
	inBubbleWith(t, Caller{"shop", "wp", "node1", "", ""}, "waypoint~1.1.1.1~wp-1.shop~x", test)
}

// put publishes resources as one change, each written as a word:
//
//	s/NAME or s/NAME@WAYPOINT, a service of namespace shop; w/NAME>SERVICE, a workload behind it, or w/NAME@WAYPOINT;
//	r/NAME>TARGET>BACKEND, a route; p/NAMESPACE/NAME, an L4 policy; -NAME takes one away.
//
// A waypoint is a service, a target a service, g:GATEWAY or c:CLASS.
func put(t testing.TB, log *Log, words ...string) {
	t.Helper()
	var updates []Update
	for _, word := range words {
		updates = append(updates, update(word))
	}
	if _, failures := log.Publish(updates); len(failures) > 0 {
		t.Fatal(failures)
	}
}

func update(word string) Update {
	rest, gone := strings.CutPrefix(word, "-")
	body, waypoint, _ := strings.Cut(rest, "@")
	parts := strings.Split(body, ">")
	u := Update{Name: parts[0]}
	if gone {
		u.Type = map[byte]string{'s': Address, 'w': Address, 'r': L7, 'p': Authorization}[parts[0][0]]
		if parts[0][0] == 's' {
			u.Name = "shop/" + parts[0] + ".svc"
		}
		return u
	}
	switch parts[0][0] {
	case 's':
		u.Type, u.Name = Address, "shop/"+parts[0]+".svc"
		u.Message = &workload.Address{Type: &workload.Address_Service{Service: &workload.Service{
			Namespace: "shop", Hostname: parts[0] + ".svc", Waypoint: gatewayAddress(waypoint),
		}}}
	case 'w':
		u.Type = Address
		w := &workload.Workload{Uid: parts[0], Waypoint: gatewayAddress(waypoint), Services: map[string]*workload.PortList{}}
		for _, service := range parts[1:] {
			w.Services["shop/"+service+".svc"] = &workload.PortList{}
		}
		u.Message = &workload.Address{Type: &workload.Address_Workload{Workload: w}}
	case 'r':
		u.Type = L7
		rule := &l7.Rule{}
		for _, backend := range parts[2:] {
			rule.Backends = append(rule.Backends, &l7.Backend{Ref: &l7.BackendRef{Service: "shop/" + backend + ".svc"}})
		}
		target := &l7.Target{Of: &l7.Target_Service{Service: "shop/" + parts[1] + ".svc"}}
		if name, ok := strings.CutPrefix(parts[1], "g:"); ok {
			target.Of = &l7.Target_Gateway{Gateway: name}
		} else if name, ok := strings.CutPrefix(parts[1], "c:"); ok {
			target.Of = &l7.Target_GatewayClass{GatewayClass: name}
		}
		u.Message = &l7.Resource{Targets: []*l7.Target{target}, Kind: &l7.Resource_Route{Route: &l7.Route{Rules: []*l7.Rule{rule}}}}
	case 'p':
		u.Type = Authorization
		u.Message = &security.Authorization{Namespace: strings.Split(parts[0], "/")[1], Name: parts[0]}
	}
	return u
}

func gatewayAddress(name string) *workload.GatewayAddress {
	if name == "" {
		return nil
	}
	return &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{
		Hostname: &workload.NamespacedHostname{Namespace: "shop", Hostname: name + ".svc"},
	}}
}

func TestAWaypointSeesWhatIsBoundToItAndNoMore(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		put(t, b.log, "s/wp", "s/a@s/wp", "w/a>s/a", "s/b", "w/b>s/b", "w/c@s/wp", "s/d@s/other", "w/d>s/d",
			"r/a>s/a", "r/b>s/b", "r/wp>g:shop/wp", "r/other>g:shop/other", "r/all>c:istio-waypoint", "r/istio>c:istio",
			"p/shop/x", "p/root/x", "p/else/x")
		b.subscribe(Authorization, L7, Address)
		b.takeSorted(Authorization, "p/root/x", "p/shop/x")
		b.takeSorted(L7, "r/a", "r/all", "r/wp")
		b.takeSorted(Address, "shop/s/a.svc", "shop/s/wp.svc", "w/a", "w/c")
		b.silent(time.Minute)
	})
}

// takeSorted is take where the order doesn't matter.
func (b *bench) takeSorted(typeURL string, want ...string) {
	b.t.Helper()
	response, _ := b.next()
	got := contents(response)
	slices.Sort(got)
	if response.TypeUrl != typeURL || !slices.Equal(got, want) {
		b.t.Fatalf("want %s %v, have %s %v", short(typeURL), want, short(response.TypeUrl), got)
	}
	b.ack(response)
}

func TestWhatIsBoundAndUnboundComesAndGoes(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		put(t, b.log, "s/a", "w/a>s/a", "r/a>s/a")
		b.subscribe(L7, Address)
		b.take(L7)
		b.take(Address)
		put(t, b.log, "s/a@s/wp")
		b.take(L7, "r/a") // before the service that it protects
		b.takeSorted(Address, "shop/s/a.svc", "w/a")
		put(t, b.log, "w/a2>s/a")
		b.take(Address, "w/a2")
		put(t, b.log, "w/a2") // not an endpoint any more
		b.take(Address, "-w/a2")
		put(t, b.log, "s/a@s/other")
		b.takeSorted(Address, "-shop/s/a.svc", "-w/a")
		b.take(L7, "-r/a") // after it
		put(t, b.log, "w/a>s/a>s/b", "r/a>s/a>s/b")
		b.silent(time.Minute)
	})
}

func TestBackendsOfItsRoutesComeAndGoWithThem(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		put(t, b.log, "s/a@s/wp", "s/b@s/other", "w/b>s/b", "r/b>s/b")
		b.subscribe(L7, Address)
		b.take(L7)
		b.take(Address, "shop/s/a.svc")
		put(t, b.log, "r/a>s/a>s/b")
		b.take(L7, "r/a")
		b.takeSorted(Address, "shop/s/b.svc", "w/b") // not r/b: the backend's own routes don't count
		put(t, b.log, "w/b2>s/b")
		b.take(Address, "w/b2")
		put(t, b.log, "-r/a", "r/a2>s/a>s/b") // another route wants the same
		b.take(L7, "r/a2")
		b.take(L7, "-r/a")
		put(t, b.log, "r/a2>s/a")
		b.take(L7, "r/a2")
		b.takeSorted(Address, "-shop/s/b.svc", "-w/b", "-w/b2")
		b.silent(time.Minute)
	})
}

// How a backend is spoken to is needed wherever requests go to it, be it somebody else's or nobody's.
func TestHowABackendIsSpokenToComesAndGoesWithIt(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		secure := update("r/tls>s/b")
		secure.Message.(*l7.Resource).Kind = &l7.Resource_BackendTls{BackendTls: &l7.BackendTLS{}}
		put(t, b.log, "s/a@s/wp", "s/b", "w/b>s/b", "r/b>s/b")
		if _, failures := b.log.Publish([]Update{secure}); len(failures) > 0 {
			t.Fatal(failures)
		}
		b.subscribe(L7, Address)
		b.take(L7)
		b.take(Address, "shop/s/a.svc")
		put(t, b.log, "r/a>s/a>s/b")
		b.takeSorted(L7, "r/a", "r/tls")
		b.takeSorted(Address, "shop/s/b.svc", "w/b")
		put(t, b.log, "r/a>s/a")
		b.take(L7, "r/a")
		b.takeSorted(Address, "-shop/s/b.svc", "-w/b")
		b.take(L7, "-r/tls")
		put(t, b.log, "s/b@s/wp") // for its own requests
		b.takeSorted(L7, "r/b", "r/tls")
	})
}

func TestAWaypointNamedByItsAddressIsTheSame(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		named := update("s/a")
		named.Message.(*workload.Address).GetService().Waypoint = &workload.GatewayAddress{Destination: &workload.GatewayAddress_Address{
			Address: &workload.NetworkAddress{Network: "n", Address: []byte{10, 0, 0, 1}},
		}}
		own := update("s/wp")
		own.Message.(*workload.Address).GetService().Addresses = []*workload.NetworkAddress{{Network: "n", Address: []byte{10, 0, 0, 1}}}
		b.log.Publish([]Update{named})
		b.subscribe(Address)
		b.take(Address)
		b.log.Publish([]Update{own})
		b.takeSorted(Address, "shop/s/a.svc", "shop/s/wp.svc")
		put(t, b.log, "s/wp")
		b.log.Publish([]Update{{Type: Address, Name: shopWaypoint.Service}})
		b.takeSorted(Address, "-shop/s/a.svc", "-shop/s/wp.svc")
	})
}

func TestAWaypointMayAskForOtherAddresses(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		put(t, b.log, "s/a@s/wp", "s/b", "w/b>s/b", "r/b>s/b", "p/else/x")
		b.subscribe(Address)
		b.take(Address, "shop/s/a.svc")
		b.ask("shop/s/b.svc", "shop/none")
		b.take(Address, "shop/s/b.svc", "w/b", "-shop/none")
		put(t, b.log, "w/b2>s/b", "w/c")
		b.take(Address, "w/b2")
		put(t, b.log, "s/b@s/wp") // it comes into view
		b.takeSorted(Address, "shop/s/b.svc", "w/b", "w/b2")
		put(t, b.log, "s/b") // and leaves it, but is asked for
		b.take(Address, "shop/s/b.svc")
		put(t, b.log, "-w/b2")
		b.take(Address, "-w/b2")
		for typeURL, name := range map[string]string{L7: "r/b", Authorization: "p/else/x"} {
			b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{name}})
			b.take(typeURL, "-"+name) // only addresses
		}
		b.silent(time.Minute)
	})
}

func TestAWaypointResumes(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		put(t, b.log, "s/a@s/wp", "w/a>s/a", "s/b", "w/b>s/b", "s/c@s/wp")
		known := map[string]string{"w/gone": "1"}
		for _, resource := range b.log.All(Address) {
			known[resource.Name] = resource.Version
		}
		put(t, b.log, "s/c")
		b.send(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: Address, ResourceNamesSubscribe: []string{"*", "shop/s/b.svc"}, InitialResourceVersions: known,
		})
		b.take(Address, "-shop/s/c.svc", "-w/gone")
		put(t, b.log, "w/b2>s/b")
		b.take(Address, "w/b2")
	})
}

func TestAWaypointResumesRoutesAmongManyOthers(t *testing.T) {
	asWaypoint(t, func(b *bench) {
		for i := range 200 {
			put(t, b.log, fmt.Sprintf("r/other%d>s/b", i))
		}
		put(t, b.log, "s/a@s/wp", "r/a>s/a")
		known := map[string]string{}
		for _, resource := range b.log.All(L7) {
			known[resource.Name] = resource.Version
		}
		delete(known, "r/other7")
		put(t, b.log, "r/a2>s/a")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: L7, InitialResourceVersions: known})
		response, _ := b.next()
		got := contents(response)
		if !slices.Contains(got, "r/a2") || slices.Contains(got, "r/a") || !slices.Contains(got, "-r/other8") || slices.Contains(got, "-r/other7") {
			t.Errorf("have %v", got)
		}
	})
}

func TestWhoIsNoWaypointIsRefused(t *testing.T) {
	for want, c := range map[string]struct {
		caller Caller
		id     string
	}{
		"InvalidArgument: want a node id like waypoint~IP~POD.NAMESPACE~DOMAIN":                    {Caller{"shop", "wp", "node1", "", ""}, "waypoint~1"},
		`PermissionDenied: "wp-1.shop" in the node id is not a pod of the token's namespace other`: {Caller{"other", "wp", "node1", "", ""}, "waypoint~1~wp-1.shop~x"},
		"PermissionDenied: not a waypoint: no such pod":                                            {Caller{"shop", "default", "node1", "", ""}, "waypoint~1~wp-1.shop~x"},
		"PermissionDenied: the pod is wp-1 in the request, but wp-2 in the token":                  {Caller{"shop", "wp", "node1", "wp-2", ""}, "waypoint~1~wp-1.shop~x"},
		"PermissionDenied: account shop/wp is not among the trusted node accounts":                 {Caller{"shop", "wp", "node1", "", ""}, ztunnelID},
	} {
		inBubbleWith(t, c.caller, c.id, func(b *bench) {
			b.subscribe(Address)
			b.wantEnd(want)
		})
	}
}

// Nothing is read of what he sends, which may be much.
func TestAPodThatIsNoProxyIsRefusedAtOnce(t *testing.T) {
	inBubbleWith(t, Caller{"shop", "web", "node1", "web-1", ""}, "waypoint~1~web-1.shop~x", func(b *bench) {
		b.wantEnd("PermissionDenied: account shop/web is not among the trusted node accounts, and the pod web-1 is not a waypoint: no such pod")
	})
}

func TestAWaypointThatWentLeavesNothing(t *testing.T) {
	log := NewLog()
	put(t, log, "s/a@s/wp", "w/a>s/a", "r/a>s/a>s/b")
	one, two := log.openView(shopWaypoint), log.openView(shopWaypoint)
	if one != two {
		t.Fatal("two instances of a waypoint have two views")
	}
	log.closeView(one)
	put(t, log, "w/a2>s/a")
	if !two.tables[Address].has("w/a2") {
		t.Error("the other instance isn't told")
	}
	log.closeView(two)
	if len(log.views.byLabel)+len(log.views.byWaypoint)+len(log.views.touched) > 0 {
		t.Errorf("left over: %v", log.views)
	}
}

func TestGravesOfAViewAreFilledToo(t *testing.T) {
	log := NewLog()
	view := log.openView(shopWaypoint)
	for i := range maxGraves + 10 {
		put(t, log, fmt.Sprintf("s/%d@s/wp", i))
		put(t, log, fmt.Sprintf("s/%d", i))
	}
	if graves := view.tables[Address].graves; graves > maxGraves {
		t.Errorf("%d graves", graves)
	}
}

// Whatever has happened, a view is what it would be if the waypoint came only now.
func TestAViewIsWhatAFreshOneWouldBe(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	one := func() string {
		name := fmt.Sprint(random.IntN(4))
		switch random.IntN(8) {
		case 0, 1:
			return "s/" + name + pick("", "@s/wp", "@s/other")
		case 2, 3:
			return "w/" + name + pick("", ">s/0", ">s/1>s/2", "@s/wp")
		case 4, 5:
			return "r/" + name + ">" + pick("s/0", "s/1", "g:shop/wp", "g:x/y", "c:istio-waypoint") + pick("", ">s/0", ">s/2>s/3")
		case 6:
			return "p/" + pick("shop", "root", "else") + "/" + name
		}
		return "-" + pick("s/", "w/", "r/") + name + pick(">s/0", "")
	}
	for round := range 200 {
		log, last := NewLog(), map[member]Update{}
		view := log.openView(shopWaypoint)
		for range 30 {
			var updates []Update
			for range 1 + random.IntN(3) {
				u := update(one())
				updates = append(updates, u)
				last[member{u.Type, u.Name}] = u
			}
			log.Publish(updates)
		}
		fresh := NewLog()
		fresh.Publish(slices.Collect(maps.Values(last)))
		want := fresh.openView(shopWaypoint)
		for typeURL := range view.tables {
			if a, b := listed(view.tables[typeURL]), listed(want.tables[typeURL]); a != b {
				t.Fatalf("round %d, %s: have %s, want %s", round, short(typeURL), a, b)
			}
		}
		if !maps.Equal(view.wants, want.wants) {
			t.Fatalf("round %d: wants %v, not %v", round, view.wants, want.wants)
		}
	}
}

func listed(t *table) string {
	var list []string
	for e := range t.changed(0) {
		if e.resource != nil {
			list = append(list, e.name+"="+e.resource.version)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// BenchmarkWaypoints is the cost of one changed workload where there are many waypoints: it goes by how many need it.
func BenchmarkWaypoints(b *testing.B) {
	for _, waypoints := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("waypoints=", waypoints), func(b *testing.B) {
			log := NewLog()
			for i := range 100 {
				put(b, log, fmt.Sprintf("s/%d@s/wp%d", i, i%waypoints), fmt.Sprintf("r/%d>s/%d", i, i))
				for j := range 10 {
					put(b, log, fmt.Sprintf("w/%d-%d>s/%d", i, j, i))
				}
			}
			for i := range waypoints {
				log.openView(Waypoint{Gateway: fmt.Sprint("shop/wp", i), Service: fmt.Sprintf("shop/s/wp%d.svc", i)})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				put(b, log, fmt.Sprintf("w/%d-0>s/%d>s/x%d", i%100, i%100, i))
			}
		})
	}
}

func TestWhatGoesAndComesAgainAlikeHasItsNewNumberInViews(t *testing.T) {
	log := NewLog()
	view := log.openView(Waypoint{Gateway: "shop/wp", Class: "istio-waypoint", Service: "shop/wp", Namespace: "shop", RootNamespace: "istio-system"})
	policy := func(name string) Update {
		return Update{Type: Authorization, Name: "shop/" + name, Message: &security.Authorization{Name: name, Namespace: "shop", Scope: security.Scope_NAMESPACE}}
	}
	log.Publish([]Update{policy("x")})
	log.Publish([]Update{{Type: Authorization, Name: "shop/x"}, policy("y"), policy("x")})
	all, seen := log.tables[Authorization].byName["shop/x"], view.tables[Authorization].byName["shop/x"]
	if seen == nil {
		t.Fatal("the waypoint doesn't see the policy of its namespace")
	}
	if all.Value.(*entry).resource != seen.Value.(*entry).resource {
		t.Errorf("number %d in the view, %d in the log", seen.Value.(*entry).resource.number, all.Value.(*entry).resource.number)
	}
}
