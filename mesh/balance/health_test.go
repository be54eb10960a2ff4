package balance_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// pair is a service of two workloads that are asked in turn of the clock.
type pair struct {
	table  *state.Table
	svc    *state.Service
	client *state.Workload
	health *balance.Health
	open   *balance.Open
	now    time.Time
}

func newPair(t *testing.T) *pair {
	t.Helper()
	port := []*workload.Port{{ServicePort: 80, TargetPort: 8080}}
	var addresses []*workload.Address
	for _, name := range []string{"web", "other"} {
		addresses = append(addresses, &workload.Address{Type: &workload.Address_Service{Service: &workload.Service{Name: name, Namespace: "shop", Hostname: name, Ports: port}}})
	}
	for i, uid := range []string{"a", "b", "client"} {
		w := &workload.Workload{Uid: uid, Name: uid, Namespace: "shop", Addresses: [][]byte{{10, 0, 0, byte(i + 1)}}}
		if uid != "client" {
			w.Services = map[string]*workload.PortList{"shop/web": {Ports: port}, "shop/other": {Ports: port}}
		}
		addresses = append(addresses, &workload.Address{Type: &workload.Address_Workload{Workload: w}})
	}
	store := state.NewStore()
	if err := store.Apply(state.Update{Addresses: addresses}); err != nil {
		t.Fatal(err)
	}
	p := &pair{table: store.Load(), open: new(balance.Open), now: time.Unix(1_000_000, 0)}
	p.svc, p.client = p.table.Service("shop", "web"), p.table.Workload("client")
	p.health = balance.NewHealth(func() time.Time { return p.now })
	return p
}

// serve says that a workload has answered so often.
func (p *pair) serve(uid string, times int, took time.Duration, well bool) {
	for range times {
		p.health.Served(p.svc, p.table.Workload(uid), 8080, took, well)
	}
}

// share is how many of a hundred choices are for a.
func (p *pair) share(t *testing.T, svc *state.Service) (a int) {
	t.Helper()
	for range 100 {
		c := balance.Client{Table: p.table, From: p.client, Dialled: netip.MustParseAddr("10.0.0.9"), Open: p.open, Health: p.health}
		chosen, err := c.Pick(svc, 80)
		if err != nil {
			t.Fatal(err)
		}
		if chosen.Workload.UID == "a" {
			a++
		}
	}
	return a
}

func TestEndpointsAreChosenByHowTheyHaveServed(t *testing.T) {
	for name, test := range map[string]struct {
		before      func(*pair)
		least, most int // of a hundred for a
	}{
		"nothing is known": {func(*pair) {}, 20, 80},
		"both are fast, one a little less": {func(p *pair) {
			p.serve("a", 20, 700*time.Microsecond, true)
			p.serve("b", 20, 100*time.Microsecond, true)
		}, 20, 80},
		"one takes nearly twice as long": {func(p *pair) {
			p.serve("b", 20, 4*time.Millisecond, true)
			p.serve("a", 20, 7*time.Millisecond, true)
		}, 10, 50},
		"one was slow, once": {func(p *pair) {
			p.serve("a", 5, time.Millisecond, true)
			p.serve("a", 1, time.Second, true)
			p.serve("b", 6, time.Millisecond, true)
		}, 20, 80},
		"one is slow":                           {func(p *pair) { p.serve("a", 20, 50*time.Millisecond, true); p.serve("b", 20, 5*time.Millisecond, true) }, 0, 20},
		"one fails, and fast":                   {func(p *pair) { p.serve("a", 5, time.Millisecond, false); p.serve("b", 5, 2*time.Millisecond, true) }, 0, 5},
		"the other is busier than one is slow":  {func(p *pair) { p.serve("a", 20, 3*time.Millisecond, true); p.open.Add(p.table.Workload("b"), 9) }, 95, 100},
		"one was slow, long ago":                {func(p *pair) { p.serve("a", 20, 50*time.Millisecond, true); p.now = p.now.Add(2 * time.Minute) }, 20, 80},
		"one has failed, long ago":              {func(p *pair) { p.serve("a", 20, time.Millisecond, false); p.now = p.now.Add(5 * time.Minute) }, 20, 100},
		"one was slow, and is fast":             {func(p *pair) { p.serve("a", 20, 50*time.Millisecond, true); p.serve("a", 40, time.Millisecond, true) }, 20, 80},
		"one was slow, and it is early to tell": {func(p *pair) { p.serve("a", 20, 50*time.Millisecond, true); p.now = p.now.Add(10 * time.Second) }, 0, 15},
		"the clock was turned back":             {func(p *pair) { p.serve("a", 20, 50*time.Millisecond, true); p.now = p.now.Add(-time.Hour) }, 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			test.before(p)
			if a := p.share(t, p.svc); a < test.least || a > test.most {
				t.Errorf("%d of 100 choices are for a, want %d to %d", a, test.least, test.most)
			}
		})
	}
}

// A workload that fails by one service may do well by another.
func TestHealthIsThatOfAServicesEndpoint(t *testing.T) {
	p := newPair(t)
	p.serve("a", 20, time.Millisecond, false)
	if a := p.share(t, p.svc); a > 5 {
		t.Errorf("%d of 100 choices are for the one that fails", a)
	}
	if a := p.share(t, p.table.Service("shop", "other")); a < 20 || a > 80 {
		t.Errorf("by the other service %d of 100 choices are for it, want about half", a)
	}
}
