package balance_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

func TestBusyEndpointGetsLess(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints []*workload.Address
		shareOfA  float64
	}{
		{"alike", []*workload.Address{pod("a", "10.0.0.1"), pod("b", "10.0.0.2")}, 0.5},
		{"by capacity", []*workload.Address{pod("a", "10.0.0.1", capacity(3)), pod("b", "10.0.0.2")}, 0.75},
		{"many", []*workload.Address{pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3"), pod("d", "10.0.0.4")}, 0.25},
		{"never a worse rank", []*workload.Address{pod("a", "10.0.0.1", in("r", "z", "n")), pod("b", "10.0.0.2", in("r", "z", "m"))}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := tableOf(t, append(test.endpoints, web(mode(failover, byNode)))...)
			from := caller(table, v4)
			from.Open = new(balance.Open)
			const picks = 2000
			for range picks { // connections that never end
				choice, err := from.Pick(table.Service("shop", "web"), 80)
				if err != nil {
					t.Fatal(err)
				}
				from.Open.Add(choice.Workload, 1)
			}
			share := float64(from.Open.Count(table.Workload("a"))) / picks
			if share < test.shareOfA-0.01 || share > test.shareOfA+0.01 {
				t.Errorf("a has %.3f of the open connections, want %.2f", share, test.shareOfA)
			}
		})
	}
}

func TestFreedEndpointCatchesUp(t *testing.T) {
	table := tableOf(t, pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), web())
	from := caller(table, v4)
	from.Open = new(balance.Open)
	from.Open.Add(table.Workload("a"), 100)
	from.Open.Add(table.Workload("b"), 100)
	from.Open.Add(table.Workload("b"), -50)
	for i := range 50 {
		choice, err := from.Pick(table.Service("shop", "web"), 80)
		if err != nil {
			t.Fatal(err)
		}
		if choice.Workload.Name == "a" {
			if i < 40 { // in one of 256 draws both candidates are the same one
				continue
			}
		}
		from.Open.Add(choice.Workload, 1)
	}
	if b := from.Open.Count(table.Workload("b")); b < 90 {
		t.Errorf("b has %d connections, want it to catch up with a's 100", b)
	}
}

func TestOpenIsCountedFromManyGoroutines(t *testing.T) {
	open, w := new(balance.Open), &state.Workload{UID: "a"}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 1000 {
				open.Add(w, 1)
				open.Add(&state.Workload{UID: "b"}, 1)
				open.Add(w, -1)
			}
		})
	}
	wait.Wait()
	if a, b := open.Count(w), open.Count(&state.Workload{UID: "b"}); a != 0 || b != 8000 {
		t.Errorf("%d and %d are open, want 0 and 8000", a, b)
	}
}

// failing is a service with endpoints of which those on node m refuse. It returns how often each was chosen.
func failing(t *testing.T, from *balance.Client, calls int) map[string]int {
	t.Helper()
	chosen := map[string]int{}
	for range calls {
		choice, err := from.Pick(from.Table.Service("shop", "web"), 80)
		if err != nil {
			t.Fatal(err)
		}
		chosen[choice.Workload.Name]++
		if choice.Workload.Node == "m" {
			from.Open.Failed(choice.Workload, choice.Addr.Port())
		} else {
			from.Open.Add(choice.Workload, 1)
		}
	}
	return chosen
}

// An endpoint that refuses has no open connections, and still it isn't preferred to others that work.
func TestFailingEndpointIsShunned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := caller(tableOf(t, pod("bad", "10.0.0.1", in("r", "z", "m")), pod("good", "10.0.0.2", in("r", "z", "n")), web()), v4)
		from.Open = new(balance.Open)
		for round := range 5 {
			if chosen := failing(t, from, 100); chosen["bad"] > 1 {
				t.Errorf("round %d: it was tried %d times, want once", round, chosen["bad"])
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// After a trial that nothing bad is heard of, connections are shared again.
func TestRecoveredEndpointIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := caller(tableOf(t, pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), web()), v4)
		from.Open = new(balance.Open)
		from.Open.Failed(from.Table.Workload("a"), 8080)
		for _, step := range []struct {
			wait time.Duration
			want int // of a hundred
		}{{0, 0}, {4 * time.Second, 0}, {time.Second, 1}, {11 * time.Second, 0}, {2 * time.Second, 100}} {
			time.Sleep(step.wait)
			if got := failing(t, from, 100)["a"]; got < step.want-5 || step.want < 100 && got > step.want { // both draws may be b
				t.Errorf("after another %s it got %d of 100, want %d", step.wait, got, step.want)
			}
		}
	})
}

// Once an endpoint was reached, nobody shuns it any more.
func TestReachedEndpointIsTakenBackAtOnce(t *testing.T) {
	from := caller(tableOf(t, pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), web()), v4)
	from.Open = new(balance.Open)
	a := from.Table.Workload("a")
	from.Open.Failed(a, 8080)
	from.Open.Failed(a, 8081)
	from.Open.Reached(a, 8081) // is another port
	if got := failing(t, from, 50)["a"]; got != 0 {
		t.Errorf("it got %d of 50, and was reached by nobody", got)
	}
	from.Open.Reached(a, 8080)
	if got := failing(t, from, 50)["a"]; got < 45 { // both draws may be b
		t.Errorf("reached, it got %d of 50, want all: the other has many open", got)
	}
}

func TestShunningEndpoints(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints []*workload.Address
		others    map[string]int // calls that the others get of a hundred, at least
	}{
		{"the only one is tried all the same", []*workload.Address{pod("bad", "10.0.0.1", in("r", "z", "m"))}, map[string]int{"bad": 100}},
		{"a worse rank that works is better", []*workload.Address{
			pod("bad1", "10.0.0.1", in("r", "z", "m")), pod("bad2", "10.0.0.2", in("r", "z", "m")), pod("far", "10.0.0.3", in("q", "y", "k"))}, map[string]int{"far": 98}},
		{"all fail alike", []*workload.Address{pod("bad1", "10.0.0.1", in("r", "z", "m")), pod("bad2", "10.0.0.2", in("r", "z", "m"))}, map[string]int{"bad1": 20, "bad2": 20}},
	} {
		t.Run(test.name, func(t *testing.T) {
			from := caller(tableOf(t, append(test.endpoints, web(mode(failover, byRegion)))...), v4)
			from.Open = new(balance.Open)
			chosen := failing(t, from, 100)
			for name, want := range test.others {
				if chosen[name] < want {
					t.Errorf("chosen %v, want %s at least %d times", chosen, name, want)
				}
			}
		})
	}
}

func TestFailureOfOnePortIsNotThatOfAnother(t *testing.T) {
	from := caller(tableOf(t, pod("a", "10.0.0.1", ports(80, 8080, 81, 8081)), pod("b", "10.0.0.2", ports(80, 8080, 81, 8081)), web(servicePorts(80, 8080, 81, 8081))), v4)
	from.Open = new(balance.Open)
	from.Open.Failed(from.Table.Workload("a"), 8080)
	svc := from.Table.Service("shop", "web")
	seen := map[string]int{}
	for range 100 {
		for _, port := range []uint16{80, 81} {
			choice, err := from.Pick(svc, port)
			if err != nil {
				t.Fatal(err)
			}
			seen[choice.Workload.Name+choice.Addr.String()]++
		}
	}
	if seen["a10.0.0.1:8080"] > 0 || seen["a10.0.0.1:8081"] == 0 {
		t.Errorf("chosen %v", seen)
	}
}

// When the clock is turned back, nobody is shunned until it has caught up: here from today to the year 2000, where the test's
// time begins.
func TestClockTurnedBackShunsNobody(t *testing.T) {
	from := caller(tableOf(t, pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), web()), v4)
	from.Open = new(balance.Open)
	from.Open.Failed(from.Table.Workload("a"), 8080)
	synctest.Test(t, func(t *testing.T) {
		if chosen := failing(t, from, 20); chosen["a"] == 0 {
			t.Errorf("chosen %v, want a at once", chosen)
		}
	})
}
