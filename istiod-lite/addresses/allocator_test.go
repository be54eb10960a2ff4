package addresses

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// entry makes one of the given minute: the greater, the younger.
func entry(name string, minute int, hosts ...string) Entry {
	return Entry{Name: model.Name{Namespace: "apps", Name: name}, Created: time.Unix(int64(minute)*60, 0), Hosts: hosts}
}

func world(list ...Entry) map[model.Name]Entry {
	entries := make(map[model.Name]Entry)
	for _, e := range list {
		entries[e.Name] = e
	}
	return entries
}

func (a *allocator) must(t *testing.T, name string) []Assignment {
	t.Helper()
	wanted, err := a.want(model.Name{Namespace: "apps", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return wanted
}

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestEachHostGetsAnAddressOfEachFamily(t *testing.T) {
	a := newAllocator(world(entry("db", 1, "a.example", "b.example")))
	got := a.must(t, "db")
	if len(got) != 4 {
		t.Fatalf("%v", got)
	}
	for i, want := range []struct {
		host string
		of   netip.Prefix
	}{{"a.example", ranges[0]}, {"a.example", ranges[1]}, {"b.example", ranges[0]}, {"b.example", ranges[1]}} {
		if got[i].Host != want.host || !want.of.Contains(got[i].IP) {
			t.Errorf("%d: %v, want one of %s for %s", i, got[i], want.of, want.host)
		}
	}
	if again := a.must(t, "db"); !slices.Equal(got, again) {
		t.Errorf("asked again: %v, before %v", again, got)
	}
}

func TestNewLeaderDecidesAsTheLastOne(t *testing.T) {
	first := newAllocator(world(entry("db", 1, "a.example"), entry("mq", 2, "b.example")))
	db, mq := entry("db", 1, "a.example"), entry("mq", 2, "b.example")
	db.Held, mq.Held = first.must(t, "db"), first.must(t, "mq")
	// Another has been there all the time, elsewhere.
	db.Held[0].IP = ip("240.240.7.7")
	second := newAllocator(world(db, mq))
	if got := second.must(t, "db"); !slices.Equal(got, db.Held) {
		t.Errorf("db has %v, its status said %v", got, db.Held)
	}
	if got := second.must(t, "mq"); !slices.Equal(got, mq.Held) {
		t.Errorf("mq has %v, its status said %v", got, mq.Held)
	}
}

func TestAddressesStayWhenOtherHostsComeAndGo(t *testing.T) {
	a := newAllocator(world(entry("db", 1, "a.example", "b.example")))
	before := a.must(t, "db")
	a.put(entry("db", 1, "c.example", "b.example"))
	after := a.must(t, "db")
	if !slices.Equal(after[2:], before[2:]) {
		t.Errorf("b.example has %v, had %v", after[2:], before[2:])
	}
	if len(a.owners) != 4 {
		t.Errorf("%d addresses are held for 2 hosts", len(a.owners))
	}
}

func TestAnOlderStatusSeenLateTakesNothingBack(t *testing.T) {
	a := newAllocator(world(entry("db", 1, "a.example")))
	before := a.must(t, "db")
	a.put(entry("db", 1, "a.example")) // from before the write, with a change of something else
	if after := a.must(t, "db"); !slices.Equal(before, after) {
		t.Errorf("%v, before %v", after, before)
	}
}

func TestOfTwoWithOneAddressTheOlderKeepsIt(t *testing.T) {
	both := func() (Entry, Entry) {
		old, young := entry("old", 1, "a.example"), entry("young", 2, "b.example")
		old.Held = []Assignment{{"a.example", ip("240.240.1.1")}, {"a.example", ip("2001:2::1")}}
		young.Held = []Assignment{{"b.example", ip("240.240.1.1")}, {"b.example", ip("2001:2::2")}}
		return old, young
	}
	check := func(t *testing.T, a *allocator) {
		t.Helper()
		old, young := both()
		if got := a.must(t, "old"); !slices.Equal(got, old.Held) {
			t.Errorf("the older has %v", got)
		}
		got := a.must(t, "young")
		if got[0].IP == young.Held[0].IP || got[1] != young.Held[1] {
			t.Errorf("the younger has %v, want another IPv4 address and the same IPv6 address", got)
		}
	}
	t.Run("found at the start", func(t *testing.T) {
		old, young := both()
		check(t, newAllocator(world(young, old)))
	})
	t.Run("the older seen later", func(t *testing.T) {
		old, young := both()
		a := newAllocator(world(young))
		a.must(t, "young")
		if losers := a.put(old); !slices.Equal(losers, []model.Name{young.Name}) {
			t.Errorf("%v lose an address", losers)
		}
		check(t, a)
	})
	t.Run("the younger seen later", func(t *testing.T) {
		old, young := both()
		a := newAllocator(world(old))
		if losers := a.put(young); len(losers) > 0 {
			t.Errorf("%v lose an address", losers)
		}
		check(t, a)
	})
}

func TestAddressThatAnEntryHasOfItsOwnIsNotGiven(t *testing.T) {
	a := newAllocator(world(entry("db", 1, "a.example")))
	before := a.must(t, "db")
	own := entry("own", 2)
	own.Fixed = []netip.Prefix{netip.PrefixFrom(before[0].IP, 32), netip.MustParsePrefix("10.0.0.0/8")}
	if losers := a.put(own); len(losers) != 1 {
		t.Errorf("%v lose an address", losers)
	}
	after := a.must(t, "db")
	if after[0].IP == before[0].IP || after[1] != before[1] {
		t.Errorf("has %v, had %v", after, before)
	}
	// A status that says so doesn't bring it back.
	db := entry("db", 1, "a.example")
	db.Held = before
	if got := newAllocator(world(db, own)).must(t, "db"); got[0].IP == before[0].IP {
		t.Errorf("a new leader gives %v, another's own", got)
	}
	a.drop(own.Name)
	if len(a.fixed) > 0 {
		t.Errorf("%v stay reserved", a.fixed)
	}
}

// Else whoever may make a ServiceEntry could take all addresses from all others.
func TestRangesThatAnEntryHasOfItsOwnTakeNoneAway(t *testing.T) {
	a := newAllocator(world(entry("db", 1, "a.example")))
	before := a.must(t, "db")
	all := entry("all", 0)
	for i := range 256 {
		all.Fixed = append(all.Fixed, netip.MustParsePrefix(fmt.Sprintf("240.240.%d.0/24", i)))
	}
	all.Fixed = append(all.Fixed, ranges[0], ranges[1])
	if losers := a.put(all); len(losers) > 0 {
		t.Errorf("%v lose an address", losers)
	}
	if after := a.must(t, "db"); !slices.Equal(after, before) {
		t.Errorf("has %v, had %v", after, before)
	}
	a.put(entry("mq", 2, "b.example"))
	a.must(t, "mq")
}

// Nor may whoever makes many of them.
func TestOneNamespaceTakesFewAddressesOfOthersForItsOwn(t *testing.T) {
	const entries = 1000
	a := newAllocator(nil)
	for i := range entries {
		name := fmt.Sprint("e", i)
		a.put(entry(name, i, name+".example"))
		a.must(t, name)
	}
	var own []Entry
	losers := make(map[model.Name]bool)
	for i := range 256 { // together all addresses
		e := Entry{Name: model.Name{Namespace: "greedy", Name: fmt.Sprint("g", i)}, Created: time.Unix(0, 0)}
		for j := range 256 {
			e.Fixed = append(e.Fixed, netip.PrefixFrom(nth(ranges[0].Addr(), uint64(i<<8+j)), 32))
		}
		own = append(own, e)
		for _, loser := range a.put(e) {
			losers[loser] = true
		}
	}
	if len(losers) > maxOwn || a.used[0] > entries+maxOwn {
		t.Errorf("%d entries lose an address, %d addresses are used", len(losers), a.used[0])
	}
	for loser := range losers {
		a.must(t, loser.Name)
	}
	for _, e := range own {
		a.drop(e.Name)
	}
	if len(a.own)+len(a.owned)+len(a.fixed) > 0 || a.used[0] != entries {
		t.Errorf("%v, %v and %v stay reserved, %d addresses used", a.own, a.owned, a.fixed, a.used[0])
	}
}

func TestOneNamespaceGetsNoMoreThanIsLeftForOthers(t *testing.T) {
	const all = 1<<16 - 2
	a := newAllocator(nil)
	fill := func(namespace string, from, given int) int {
		for i := range given {
			a.give(slot{entry: model.Name{Namespace: namespace}, host: fmt.Sprint(i)}, nth(ranges[0].Addr(), uint64(from+i)))
		}
		for count := given; ; count++ {
			name := model.Name{Namespace: namespace, Name: fmt.Sprint("e", count)}
			a.put(Entry{Name: name, Hosts: []string{"a.example"}})
			if got, err := a.want(name); errors.Is(err, errShare) && len(got) == 1 {
				return count // it has one of the other family
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	first := fill("greedy", 1, 32_700)
	second := fill("greedy too", 40_000, 16_300)
	if first != all/2 || second != (all-first)/2+1 {
		t.Errorf("one gets %d, another %d of %d", first, second, all)
	}
	a.put(entry("db", 1, "a.example"))
	a.must(t, "db")
	for i := range 3 {
		a.drop(model.Name{Namespace: "greedy", Name: fmt.Sprint("e", 32_700+i)})
	}
	if got, err := a.want(model.Name{Namespace: "greedy too", Name: fmt.Sprint("e", second)}); err != nil || len(got) != 2 {
		t.Errorf("%v, %v after another has let go", got, err)
	}
}

func TestAddressesOfOtherRangesAreReplaced(t *testing.T) {
	db := entry("db", 1, "a.example")
	db.Held = []Assignment{{"a.example", ip("192.0.2.1")}, {"gone.example", ip("240.240.0.9")}, {"a.example", netip.Addr{}}}
	got := newAllocator(world(db)).must(t, "db")
	if len(got) != 2 || !ours(got[0].IP) || !ours(got[1].IP) {
		t.Errorf("%v", got)
	}
}

func TestFullRangeIsAnErrorUntilAnEntryGoes(t *testing.T) {
	a := newAllocator(nil)
	for i := range 1<<16 - 2 {
		a.give(slot{host: fmt.Sprint(i)}, nth(ranges[0].Addr(), uint64(i+1)))
	}
	a.put(entry("late", 1, "a.example"))
	got, err := a.want(entry("late", 1).Name)
	if !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
	if len(got) != 1 || !got[0].IP.Is6() {
		t.Errorf("has %v, want one of the family that isn't full", got)
	}
	a.free(a.owners[ip("240.240.200.1")])
	if got := a.must(t, "late"); got[0].IP != ip("240.240.200.1") {
		t.Errorf("%v", got)
	}
}

func TestFirstAndLastAddressAreNotGiven(t *testing.T) {
	for n, want := range map[uint64]string{1: "240.240.0.1", 1<<16 - 2: "240.240.255.254"} {
		if got := nth(ranges[0].Addr(), n); got != ip(want) {
			t.Errorf("%d: %s", n, got)
		}
	}
	if got := nth(ranges[1].Addr(), 1<<32-2); got != ip("2001:2::ffff:fffe") {
		t.Error(got)
	}
}

// Whatever comes in whatever order, no address is given twice, and none without need.
func TestNoAddressIsGivenTwice(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	a := newAllocator(nil)
	for range 1000 {
		e := entry(fmt.Sprint("e", random.IntN(20)), random.IntN(5))
		for i := range random.IntN(3) {
			e.Hosts = append(e.Hosts, fmt.Sprint("h", i))
			e.Held = append(e.Held, Assignment{fmt.Sprint("h", random.IntN(3)), nth(ranges[0].Addr(), random.Uint64N(30)+1)})
		}
		if random.IntN(10) == 0 {
			e.Fixed = []netip.Prefix{netip.PrefixFrom(nth(ranges[0].Addr(), random.Uint64N(30)+1), 32)}
		}
		if random.IntN(10) == 0 {
			a.drop(e.Name)
		} else {
			for _, loser := range a.put(e) {
				if loser != e.Name {
					a.must(t, loser.Name)
				}
			}
		}
		check(t, a)
	}
}

func check(t *testing.T, a *allocator) {
	t.Helper()
	seen := make(map[netip.Addr]model.Name)
	for name := range a.entries {
		for _, given := range a.must(t, name.Name) {
			if other, twice := seen[given.IP]; twice {
				t.Fatalf("%s is given to %s and %s", given.IP, other, name)
			}
			if a.taken(given.IP) {
				t.Fatalf("%s is given to %s, and an entry has it of its own", given.IP, name)
			}
			seen[given.IP] = name
		}
	}
	if len(seen) != len(a.owners) || len(seen) != len(a.given) {
		t.Fatalf("%d given, %d owned, %d slots", len(seen), len(a.owners), len(a.given))
	}
}
