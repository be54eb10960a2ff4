package demand_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// plane is a control plane that answers what it is told to have, at once or when told to.
type plane struct {
	t     *testing.T
	store *state.Store
	cache *demand.Cache

	mu        sync.Mutex
	asked     []string
	forgotten int
	gone      []string // that was forgotten
}

func newPlane(t *testing.T) *plane {
	p := &plane{t: t, store: state.NewStore()}
	p.cache = demand.New(demand.Config{Table: p.store.Load, Ask: func(names ...string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked = append(p.asked, names...)
	}, Forget: func(names ...string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forgotten += len(names)
		p.gone = append(p.gone, names...)
	}, Drop: func(names ...string) {
		if err := p.store.Apply(state.Update{RemovedAddresses: names}); err != nil {
			t.Error(err)
		}
	}})
	return p
}

// questions are what was asked since the last call.
func (p *plane) questions() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.asked = nil }()
	return strings.Join(p.asked, " ")
}

// has makes an answer of a resource with aliases.
func (p *plane) has(resource *workload.Address, aliases ...string) {
	p.t.Helper()
	p.push(aliases, resource)
}

// push answers as a push does that was taken.
func (p *plane) push(aliases []string, resources ...*workload.Address) {
	p.t.Helper()
	if err := p.store.Apply(state.Update{Addresses: resources}); err != nil {
		p.t.Fatal(err)
	}
	for _, resource := range resources {
		name := resource.GetWorkload().GetUid()
		if s := resource.GetService(); s != nil {
			name = s.GetNamespace() + "/" + s.GetHostname()
		}
		p.cache.Found(name, aliases)
	}
	p.cache.Settle()
}

func (p *plane) hasNo(names ...string) {
	if err := p.store.Apply(state.Update{RemovedAddresses: names}); err != nil {
		p.t.Error(err)
	}
	p.cache.Absent(names)
}

// learn decides for a client whether something is missing; the answer is given by answer, while it waits.
func (p *plane) learn(to string, answer func()) error {
	done := make(chan error, 1)
	go func() { done <- p.cache.Learn(context.Background(), client, netip.MustParseAddr(to)) }()
	synctest.Wait()
	answer()
	return <-done
}

func nothing() {}

var client = &state.Workload{UID: "client", Namespace: "shop"}

func pod(name, address string, edit ...func(*workload.Workload)) *workload.Address {
	w := &workload.Workload{Uid: name, Name: name, Namespace: "shop", Addresses: [][]byte{netip.MustParseAddr(address).AsSlice()}}
	for _, e := range edit {
		e(w)
	}
	return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
}

func service(name, address string, edit ...func(*workload.Service)) *workload.Address {
	s := &workload.Service{Namespace: "shop", Hostname: name, Addresses: []*workload.NetworkAddress{{Address: netip.MustParseAddr(address).AsSlice()}}}
	for _, e := range edit {
		e(s)
	}
	return &workload.Address{Type: &workload.Address_Service{Service: s}}
}

func atHost(name string) *workload.GatewayAddress {
	return &workload.GatewayAddress{Destination: &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: "shop", Hostname: name}}, HboneMtlsPort: 15008}
}

func TestAddressIsAskedForOnceAndThenKnown(t *testing.T) {
	for name, aliases := range map[string][]string{"with aliases": {"/10.0.0.1"}, "without aliases": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t)
				if err := p.learn("10.0.0.1", func() { p.has(pod("a", "10.0.0.1"), aliases...) }); err != nil {
					t.Fatal(err)
				}
				if got := p.questions(); got != "/10.0.0.1" {
					t.Errorf("asked %q", got)
				}
				time.Sleep(time.Hour)
				if err := p.learn("10.0.0.1", nothing); err != nil || p.questions() != "" {
					t.Errorf("a known address: %v, asked %q", err, p.questions())
				}
			})
		})
	}
}

func TestManyConnectionsToOneAddressAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if err := p.cache.Learn(t.Context(), client, netip.MustParseAddr("10.0.0.1")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		p.has(pod("a", "10.0.0.1"))
		group.Wait()
		if got := p.questions(); got != "/10.0.0.1" {
			t.Errorf("asked %q, want one question", got)
		}
	})
}

func TestAddressThatMeansNothingIsAskedForAnewAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		absent := func() { p.hasNo("/1.1.1.1") }
		for range 3 {
			if err := p.learn("1.1.1.1", absent); err != nil || p.questions() != "/1.1.1.1" {
				t.Fatalf("Learn = %v", err)
			}
			time.Sleep(9 * time.Second)
			if err := p.learn("1.1.1.1", nothing); err != nil || p.questions() != "" {
				t.Fatalf("Learn within ten seconds = %v", err)
			}
			time.Sleep(2 * time.Second)
		}
		if err := p.learn("1.1.1.1", func() { p.has(pod("a", "1.1.1.1")) }); err != nil {
			t.Error(err)
		}
		if w := p.store.Load().WorkloadAt("", netip.MustParseAddr("1.1.1.1")); w == nil {
			t.Error("the pod that came isn't there")
		}
	})
}

// A pod's address goes to the next pod.
func TestAddressWhoseOwnerIsGoneIsAskedForAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		if err := p.learn("10.0.0.1", func() { p.has(pod("a", "10.0.0.1"), "/10.0.0.1") }); err != nil {
			t.Fatal(err)
		}
		p.questions()
		p.hasNo("a")
		if err := p.learn("10.0.0.1", func() { p.has(pod("b", "10.0.0.1"), "/10.0.0.1") }); err != nil || p.questions() != "/10.0.0.1" {
			t.Errorf("Learn = %v", err)
		}
		if w := p.store.Load().WorkloadAt("", netip.MustParseAddr("10.0.0.1")); w == nil || w.UID != "b" {
			t.Errorf("the address is that of %v", w)
		}
	})
}

func TestSilentControlPlaneIsWaitedForAFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		began := time.Now()
		err := p.learn("10.0.0.1", nothing)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "/10.0.0.1") || time.Since(began) != 5*time.Second {
			t.Errorf("Learn = %v after %s", err, time.Since(began))
		}
		if err := p.learn("10.0.0.1", func() { p.has(pod("a", "10.0.0.1")) }); err != nil || p.questions() != "/10.0.0.1" {
			t.Errorf("the answer came late: %v", err)
		}
	})
}

// What a connection passes on its way has to be known before it is decided.
func TestWaypointsAndGatewaysAreAskedForInTurn(t *testing.T) {
	remote := func(gateway string) func(*workload.Workload) {
		return func(w *workload.Workload) { w.Network, w.NetworkGateway = "far", atHost(gateway) }
	}
	behind := func(service string) func(*workload.Workload) {
		return func(w *workload.Workload) { w.Services = map[string]*workload.PortList{"shop/" + service: {}} }
	}
	atAddress := &workload.GatewayAddress{Destination: &workload.GatewayAddress_Address{Address: &workload.NetworkAddress{Address: []byte{10, 0, 0, 9}}}, HboneMtlsPort: 15008}
	gateway := service("gateway", "172.16.0.9")
	for _, test := range []struct {
		name    string
		to      string
		answers map[string][]*workload.Address
		want    string
	}{
		{"service without a waypoint", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1": {service("web", "172.16.0.1")},
		}, "/172.16.0.1"},
		{"service with a waypoint by hostname", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1": {service("web", "172.16.0.1", func(s *workload.Service) { s.Waypoint = atHost("gateway") })}, "shop/gateway": {gateway},
		}, "/172.16.0.1 shop/gateway"},
		{"service with weighted waypoints", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1": {service("web", "172.16.0.1", func(s *workload.Service) {
				s.WeightedWaypoints = []*workload.WeightedWaypoint{{Destination: atHost("gateway"), Weight: 1}, {Destination: atHost("other"), Weight: 1}}
			})}, "shop/gateway": {gateway}, "shop/other": {service("other", "172.16.0.8")},
		}, "/172.16.0.1 shop/gateway shop/other"},
		{"workload with a waypoint by address", "10.0.0.1", map[string][]*workload.Address{
			"/10.0.0.1": {pod("a", "10.0.0.1", func(w *workload.Workload) { w.Waypoint = atAddress })}, "/10.0.0.9": {pod("w", "10.0.0.9")},
		}, "/10.0.0.1 /10.0.0.9"},
		{"service with an endpoint in another network", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1":  {service("web", "172.16.0.1"), pod("a", "10.0.0.1", remote("gateway"), behind("web"))},
			"shop/gateway": {gateway},
		}, "/172.16.0.1 shop/gateway"},
		{"waypoint in another network", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1":   {service("web", "172.16.0.1", func(s *workload.Service) { s.Waypoint = atHost("waypoint") })},
			"shop/waypoint": {service("waypoint", "172.16.0.7"), pod("w", "10.0.0.7", remote("gateway"), behind("waypoint"))},
			"shop/gateway":  {gateway},
		}, "/172.16.0.1 shop/waypoint shop/gateway"},
		{"waypoint that is not there", "172.16.0.1", map[string][]*workload.Address{
			"/172.16.0.1": {service("web", "172.16.0.1", func(s *workload.Service) { s.Waypoint = atHost("gateway") })}, "shop/gateway": nil,
		}, "/172.16.0.1 shop/gateway"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t)
				done := make(chan error, 1)
				go func() { done <- p.cache.Learn(t.Context(), client, netip.MustParseAddr(test.to)) }()
				var asked []string
				for {
					synctest.Wait()
					question := p.questions()
					if question == "" {
						break
					}
					asked = append(asked, question)
					for _, name := range strings.Fields(question) {
						p.push(nil, test.answers[name]...)
						if len(test.answers[name]) == 0 {
							p.hasNo(name)
						}
					}
				}
				if err := <-done; err != nil || strings.Join(asked, " ") != test.want {
					t.Errorf("Learn = %v, asked %q, want %q", err, asked, test.want)
				}
			})
		})
	}
}

func TestWhatThereIsNotIsForgottenWhenTooMuchWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		for i := range 50_001 {
			name := fmt.Sprintf("/1.0.%d.%d", i>>8, i&255)
			if i>>8 > 255 {
				t.Fatal(name)
			}
			p.cache.Want(demand.Address("", netip.AddrFrom4([4]byte{1, 0, byte(i >> 8), byte(i)})))
			p.cache.Absent([]string{name})
		}
		if p.forgotten != 50_000 {
			t.Errorf("%d names forgotten", p.forgotten)
		}
		for i := range 50_000 {
			p.cache.Want(demand.Workload(fmt.Sprint(i)))
		}
		if err := p.cache.Get(t.Context(), demand.Workload("one more")); err == nil || !strings.Contains(err.Error(), "too much") {
			t.Errorf("Get beyond the limit = %v", err)
		}
	})
}

func TestWholeMeshKnownNeedsNothing(t *testing.T) {
	var c *demand.Cache
	if err := errors.Join(c.Learn(t.Context(), client, netip.MustParseAddr("10.0.0.1")), c.Get(t.Context(), demand.Workload("a"))); err != nil {
		t.Error(err)
	}
	if missing := c.Missing(state.NewStore().Load(), client, netip.MustParseAddr("10.0.0.1")); slices.Contains(missing, demand.Workload("a")) || len(missing) > 0 {
		t.Errorf("missing %v", missing)
	}
	c.Want(demand.Workload("a"))
	c.Found("a", nil)
	c.Absent([]string{"a"})
	c.Settle()
}

func BenchmarkMissing(b *testing.B) {
	store := state.NewStore()
	cache := demand.New(demand.Config{Table: store.Load, Ask: func(...string) {}, Forget: func(...string) {}, Drop: func(...string) {}})
	to := netip.MustParseAddr("10.0.0.1")
	cache.Want(demand.Address("", to))
	if err := store.Apply(state.Update{Addresses: []*workload.Address{pod("a", "10.0.0.1")}}); err != nil {
		b.Fatal(err)
	}
	cache.Settle()
	b.ReportAllocs()
	for b.Loop() {
		if len(cache.Missing(store.Load(), client, to)) > 0 {
			b.Fatal("it is known")
		}
	}
}
