package demand_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// held lists what the table has.
func (p *plane) held() string {
	var names []string
	for _, svc := range p.store.Load().Services() {
		names = append(names, svc.Namespace+"/"+svc.Hostname)
	}
	for _, w := range p.store.Load().Workloads() {
		names = append(names, w.UID)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// run runs the cache until the returned function is called.
func (p *plane) run() (stop func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan struct{})
	go func() { p.cache.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func serves(host string) func(*workload.Workload) {
	return func(w *workload.Workload) { w.Services = map[string]*workload.PortList{"shop/" + host: {}} }
}

// What no connection has needed for half an hour is unsubscribed from and taken out of the table; what is needed stays, with what came
// along, and so does what is kept.
func TestAnswersThatNobodyNeedsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		defer p.run()()
		learn := func(to string, resources ...*workload.Address) {
			t.Helper()
			if err := p.learn(to, func() { p.push(nil, resources...) }); err != nil {
				t.Fatal(err)
			}
		}
		learn("10.0.0.1", pod("idle", "10.0.0.1"))
		learn("10.0.0.2", pod("busy", "10.0.0.2"))
		learn("172.16.0.1", service("web", "172.16.0.1"), pod("w1", "10.0.0.3", serves("web")), pod("w2", "10.0.0.4", serves("web")))
		learn("172.16.0.2", service("old", "172.16.0.2"), pod("o1", "10.0.0.5", serves("old")), pod("both", "10.0.0.6", serves("old"), func(w *workload.Workload) { w.Services["shop/web"] = &workload.PortList{} }))
		p.cache.Keep(demand.Workload("own"))
		p.push(nil, pod("own", "10.0.0.9"))
		for range 7 { // 35 minutes
			time.Sleep(5 * time.Minute)
			learn("10.0.0.2")
			learn("172.16.0.1")
		}
		synctest.Wait()
		if got, want := p.held(), "both busy own shop/web w1 w2"; got != want {
			t.Errorf("the table has %q, want %q", got, want)
		}
		slices.Sort(p.gone)
		if got, want := strings.Join(p.gone, " "), "/10.0.0.1 /172.16.0.2 idle o1 shop/old"; got != want {
			t.Errorf("unsubscribed from %q, want %q", got, want)
		}
		p.questions()
		learn("10.0.0.1", pod("next", "10.0.0.1"))
		if got := p.questions(); got != "/10.0.0.1" {
			t.Errorf("asked %q, want what was forgotten", got)
		}
		p.cache.Release(demand.Workload("own"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := p.held(); got != "" {
			t.Errorf("the table still has %q after an hour without connections", got)
		}
	})
}

// A question that nobody has answered yet is somebody's, however long that takes.
func TestOpenQuestionsAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		defer p.run()()
		p.cache.Want(demand.Workload("late"))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if p.forgotten > 0 {
			t.Errorf("unsubscribed from %v", p.gone)
		}
		p.push(nil, pod("late", "10.0.0.1"))
		if got := p.held(); got != "late" {
			t.Errorf("the table has %q", got)
		}
	})
}

// However many addresses are called, the number of answers is bounded: those that were needed longest ago go first.
func TestTheOldestAnswersMakeRoomForNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		const most = 50_000
		at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
		var all []*workload.Address
		for i := range most {
			if i == most/2 {
				time.Sleep(time.Second)
			}
			p.cache.Want(demand.Address("", at(i)))
			all = append(all, pod(fmt.Sprint("p", i), at(i).String()))
		}
		if err := p.store.Apply(state.Update{Addresses: all}); err != nil {
			t.Fatal(err)
		}
		p.cache.Settle()
		if err := p.learn("10.255.0.1", func() { p.push(nil, pod("new", "10.255.0.1")) }); err != nil {
			t.Fatal(err)
		}
		if n := len(p.store.Load().Workloads()); n != most-most/10+1 {
			t.Errorf("the table has %d workloads", n)
		}
		for _, i := range []int{most / 2, most - 1} {
			if p.store.Load().WorkloadAt("", at(i)) == nil {
				t.Errorf("answer %d is gone, which was needed later than others", i)
			}
		}
	})
}
