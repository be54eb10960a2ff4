package push

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

func TestVersionsGoByContentAlone(t *testing.T) {
	one, two := NewLog(), NewLog()
	services := func(order ...string) proto.Message {
		w := &workload.Workload{Uid: "w", Services: map[string]*workload.PortList{}}
		for _, name := range order {
			w.Services[name] = &workload.PortList{}
		}
		return &workload.Address{Type: &workload.Address_Workload{Workload: w}}
	}
	for range 20 {
		for log, message := range map[*Log]proto.Message{one: services("a", "b", "c"), two: services("c", "b", "a")} {
			if _, err := log.Publish([]Update{{Address, "w", nil}, {Address, "w", message}}); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := one.All(Address)[0].Version, two.All(Address)[0].Version; a != b || a == "" {
			t.Fatalf("versions %s and %s", a, b)
		}
	}
}

func TestWhatIsAsItWasIsNoChange(t *testing.T) {
	log, one := NewLog(), newListener()
	one.wants.Store(true)
	log.listen(one)
	if got := publish(t, log, "w/a=1", "w/none"); got != 1 {
		t.Errorf("%d changed", got)
	}
	<-one.kick
	if got := publish(t, log, "w/a=1", "w/none"); got != 0 {
		t.Errorf("%d changed", got)
	}
	select {
	case <-one.kick:
		t.Error("readers were woken")
	default:
	}
}

func TestGravesAreKeptForReadersBehindThem(t *testing.T) {
	log := NewLog()
	behind, ahead := log.open(), log.open()
	for i := range maxGraves + 1 {
		publish(t, log, fmt.Sprint("w/", i, "=1"))
	}
	behind.change = log.head.Load()
	for i := range maxGraves + 1 {
		publish(t, log, fmt.Sprint("w/", i))
	}
	ahead.change = log.head.Load()
	table := log.tables[Address]
	if d := table.since(behind.change); len(d.removed) != maxGraves+1 {
		t.Fatalf("the reader behind sees %d of %d removals", len(d.removed), maxGraves+1)
	}
	log.close(behind)
	publish(t, log, "w/x=1")
	if table.graves != 0 || len(table.byName) != 1 || table.order.Len() != 1 {
		t.Errorf("%d graves, %d names, %d entries are left", table.graves, len(table.byName), table.order.Len())
	}
	if d := table.since(ahead.change); len(d.resources) != 1 || len(d.removed) != 0 {
		t.Errorf("the reader ahead sees %v", d)
	}
}

func TestOneReaderSeesAllOfAChangeOrNothing(t *testing.T) {
	log := NewLog()
	var group sync.WaitGroup
	group.Go(func() {
		for i := range 500 {
			publish(t, log, fmt.Sprint("w/a=", i), fmt.Sprint("w/b=", i))
		}
	})
	for range 500 {
		all := log.All(Address)
		if len(all) == 0 {
			continue
		}
		var values []string
		for _, resource := range all {
			message, err := resource.Resource.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, message.(*workload.Address).GetWorkload().Name)
		}
		if len(slices.Compact(values)) != 1 {
			t.Fatalf("saw %v", values)
		}
	}
	group.Wait()
}

func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			log := NewLog()
			for i := range size {
				publish(b, log, fmt.Sprint("w/", i, "=1"))
			}
			reader := log.open()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				publish(b, log, fmt.Sprint("w/", i%size, "=", i))
				reader.change = log.head.Load() - 1
				if d := log.tables[Address].since(reader.change); len(d.resources) != 1 {
					b.Fatal(len(d.resources))
				}
			}
		})
	}
}
