package model

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func tagged(text string) Labels {
	all := make(map[string]string)
	for one := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(one, "=")
		all[key] = value
	}
	return LabelsOf(all)
}

// chooserOf makes a Service or, of hosts, a ServiceEntry that chooses workloads of the namespace demo.
func chooserOf(name string, created int64, selector string, hosts, ports int) Object {
	list := make([]ServicePort, ports)
	if hosts == 0 {
		return &Service{Namespace: "demo", Name: name, Created: time.Unix(created, 0), Selector: tagged(selector), Ports: list}
	}
	e := &ServiceEntry{Namespace: "demo", Name: name, Created: time.Unix(created, 0), Selected: true, Selector: tagged(selector), Ports: list}
	for i := range hosts {
		e.Hosts = append(e.Hosts, fmt.Sprintf("%s%d.example.com", name, i))
	}
	return e
}

// handmade is a service without a selector, and sliceOf one of its slices, which names the pod demo/a.
func handmade(namespace, name string, created int64, ports int) *Service {
	return &Service{Namespace: namespace, Name: name, Created: time.Unix(created, 0), Ports: make([]ServicePort, ports)}
}

func sliceOf(s *Service, name, uid string) *EndpointSlice {
	return &EndpointSlice{Namespace: s.Namespace, Name: name, Service: s.Name, Endpoints: []Endpoint{{Pod: Name{"demo", "a"}, PodUID: uid}}}
}

func TestWhatFindsRoomInAWorkload(t *testing.T) {
	pod := &Pod{Namespace: "demo", Name: "a", Labels: tagged("app=a tier=x")}
	none := chooserOf("none", 0, "app=a", 9, 1000).(*ServiceEntry)
	none.Resolution = ResolveNone
	all := chooserOf("all", 5, "", 2, 1000)
	h1, h2, h3 := handmade("demo", "h1", 1, 2000), handmade("demo", "h2", 2, 48), handmade("demo", "h3", 3, 0)
	foreign := handmade("evil", "foreign", 0, 2048)
	for name, c := range map[string]struct {
		objects []Object
		want    string // who chooses the pod, and of whom it is an endpoint
		late    string
	}{
		"as much as there may be":        {[]Object{pod, chooserOf("e", 1, "app=a", 256, 8)}, "e", ""},
		"together too much, younger":     {[]Object{pod, chooserOf("f", 1, "app=a", 256, 8), chooserOf("e", 2, "app=a", 1, 1)}, "f", "e"},
		"of one age by name":             {[]Object{pod, chooserOf("f", 1, "app=a", 1, 2000), chooserOf("e", 1, "tier=x", 1, 49)}, "e", "f"},
		"services first":                 {[]Object{pod, chooserOf("e", 1, "app=a", 1, 100), chooserOf("s", 9, "app=a", 0, 2000)}, "s", "e"},
		"of services the older":          {[]Object{pod, chooserOf("r", 2, "app=a", 0, 100), chooserOf("s", 1, "app=a", 0, 2000)}, "s", "r"},
		"after the first without room":   {[]Object{pod, chooserOf("a", 1, "app=a", 1, 2000), chooserOf("b", 2, "app=a", 1, 100), chooserOf("c", 3, "app=a", 1, 48)}, "a", "b c"},
		"too large for any workload":     {[]Object{pod, chooserOf("a", 1, "app=a", 2, 1025), chooserOf("b", 2, "app=a", 1, 2048)}, "b", "a"},
		"too large, and nothing else":    {[]Object{pod, chooserOf("a", 1, "app=a", 2, 1025)}, "", "a"},
		"services too large for any":     {[]Object{pod, chooserOf("a", 1, "app=a", 0, 2049), chooserOf("b", 2, "app=a", 0, 2048)}, "b", "a"},
		"not to be resolved":             {[]Object{pod, none, chooserOf("e", 1, "app=a", 1, 2048)}, "e none", ""},
		"of other workloads":             {[]Object{pod, chooserOf("e", 1, "app=a", 1, 2048), chooserOf("f", 2, "app=b", 1, 2048)}, "e", ""},
		"of all workloads":               {[]Object{pod, chooserOf("e", 1, "app=a", 1, 100), all}, "e", "all"},
		"without ports":                  {[]Object{pod, chooserOf("e", 1, "app=a", 1, 2047), chooserOf("f", 3, "app=a", 1, 0), chooserOf("g", 2, "app=a", 1, 0)}, "e g", "f"},
		"services without ports":         {[]Object{pod, chooserOf("s", 2, "app=a", 0, 2047), chooserOf("u", 4, "app=a", 0, 0), chooserOf("v", 3, "app=a", 0, 0)}, "s v", "u"},
		"by slices":                      {[]Object{pod, h1, h2, h3, sliceOf(h1, "x", ""), sliceOf(h2, "y", ""), sliceOf(h3, "z", "")}, "h1 h2", "h3"},
		"by many slices of one":          {[]Object{pod, h1, h2, sliceOf(h1, "x", ""), sliceOf(h1, "y", ""), sliceOf(h2, "z", "")}, "h1 h2", ""},
		"by slices about another pod":    {[]Object{pod, h1, h2, h3, sliceOf(h1, "x", "before"), sliceOf(h2, "y", ""), sliceOf(h3, "z", "")}, "h2 h3", ""},
		"by slices, own namespace first": {[]Object{pod, foreign, h2, sliceOf(foreign, "x", ""), sliceOf(h2, "y", "")}, "h2", "foreign"},
		"by slices beside selectors":     {[]Object{pod, chooserOf("e", 1, "app=a", 1, 2048), h1, sliceOf(h1, "x", "")}, "e h1", ""},
		"of no workload":                 {[]Object{chooserOf("e", 1, "app=a", 1, 2048), chooserOf("f", 2, "app=a", 1, 2048)}, "e f", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(Settings{})
			m.Apply(changesOf(c.objects))
			var have, late []string
			for _, s := range m.ServicesOf("demo", pod.Labels) {
				have = append(have, s.Name)
			}
			for _, e := range m.EntriesOf("demo", pod.Labels) {
				have = append(have, e.Name)
			}
			for s := range m.SlicesOf(pod) {
				have = append(have, s.Name)
			}
			slices.Sort(have)
			for _, o := range c.objects {
				if m.Late(o.Key()) {
					late = append(late, o.Key().Name.Name)
				}
			}
			if got := strings.Join(have, " "); got != c.want {
				t.Errorf("it is an endpoint of %q, want %q", got, c.want)
			}
			if got := strings.Join(late, " "); got != c.late {
				t.Errorf("late: %q, want %q", got, c.late)
			}
		})
	}
}

func changesOf(objects []Object) []Change {
	var changes []Change
	for _, o := range objects {
		changes = append(changes, Change{Key: o.Key(), Object: o})
	}
	return changes
}

func TestRoomIsFoundAgainAndTold(t *testing.T) {
	m := New(Settings{})
	early, late := chooserOf("early", 1, "app=a", 1, 2000), chooserOf("late", 2, "app=a", 1, 100)
	pod := &WorkloadEntry{Namespace: "demo", Name: "vm", EntryEndpoint: EntryEndpoint{Labels: tagged("app=a")}}
	m.Apply(changesOf([]Object{early, late}))
	for _, step := range []struct {
		name   string
		change Change
		late   bool
	}{
		{"a workload comes", Change{pod.Key(), pod}, true},
		{"the older one goes", Change{early.Key(), nil}, false},
		{"it comes back", Change{early.Key(), early}, true},
		{"it becomes smaller", Change{early.Key(), chooserOf("early", 1, "app=a", 1, 10)}, false},
		{"it grows", Change{early.Key(), early}, true},
		{"the workload goes", Change{pod.Key(), nil}, false},
	} {
		keys := m.Apply([]Change{step.change})
		if m.Late(late.Key()) != step.late {
			t.Errorf("%s: late is %t", step.name, !step.late)
		}
		if !slices.Contains(keys, late.Key()) {
			t.Errorf("%s: the younger one isn't translated again", step.name)
		}
	}
	if len(m.full) > 0 {
		t.Errorf("left behind: %v", m.full)
	}
}

// Whoever may write WorkloadEntries, each with labels of its own, and Services that choose all of them, could else fill the memory with who is
// late where: the product of both.
func TestWhoIsLateWhereTakesNoMemory(t *testing.T) {
	const workloads, services, most = 100, 6000, 16 << 20
	var changes []Change
	for i := range workloads {
		e := &WorkloadEntry{Namespace: "demo", Name: fmt.Sprint("w", i), EntryEndpoint: EntryEndpoint{Labels: tagged(fmt.Sprint("app=a n=", i))}}
		changes = append(changes, Change{e.Key(), e})
	}
	for i := range services {
		s := chooserOf(fmt.Sprint("s", i), int64(i), "app=a", 0, 1)
		changes = append(changes, Change{s.Key(), s})
	}
	heap := func() int64 {
		var now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&now)
		return int64(now.HeapAlloc)
	}
	m := New(Settings{})
	before := heap()
	m.Apply(changes)
	if grown := heap() - before; grown > most {
		t.Errorf("the heap has grown by %d MiB, want %d at most", grown>>20, most>>20)
	}
	for i, want := range map[int]bool{0: false, MaxMappings - 1: false, MaxMappings: true, services - 1: true} {
		if key := (Key{KindService, Name{"demo", fmt.Sprint("s", i)}}); m.Late(key) != want {
			t.Errorf("%s: late is %t", key, !want)
		}
	}
	runtime.KeepAlive(changes)
}

// Whatever came and went before, who is late goes by what there is, and each time that changes, it is told.
func TestWhoIsLateGoesByWhatThereIs(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	labels := []string{"", "app=a", "app=b", "tier=x", "app=a tier=x", "app=b tier=x"}
	m, there, was := New(Settings{}), make(map[Key]Object), make(map[Key]bool)
	for range 2000 {
		var o Object
		switch name, text := fmt.Sprint("o", dice.IntN(4)), labels[dice.IntN(len(labels))]; dice.IntN(5) {
		case 0:
			o = &Pod{Namespace: "demo", Name: name, UID: fmt.Sprint(dice.IntN(2)), Labels: tagged(text)}
		case 1:
			o = &WorkloadEntry{Namespace: "demo", Name: name, EntryEndpoint: EntryEndpoint{Labels: tagged(text)}}
		case 2:
			o = chooserOf(name, dice.Int64N(3), text, 0, 420*dice.IntN(6)) // the largest is too large for any workload
		case 3:
			slice := sliceOf(handmade("demo", fmt.Sprint("o", dice.IntN(4)), 0, 0), name, "")
			slice.Endpoints[0] = Endpoint{Pod: Name{"demo", fmt.Sprint("o", dice.IntN(2))}, PodUID: fmt.Sprint(dice.IntN(2))}
			o = slice
		default:
			o = chooserOf(name, dice.Int64N(3), text, 1+dice.IntN(3), 200*dice.IntN(6))
		}
		change := Change{Key: o.Key(), Object: o}
		if there[o.Key()] = o; dice.IntN(3) == 0 {
			delete(there, o.Key())
			change.Object = nil
		}
		keys := m.Apply([]Change{change})
		fresh := New(Settings{})
		var all []Object
		for _, each := range there {
			all = append(all, each)
		}
		fresh.Apply(changesOf(all))
		for _, text := range labels {
			if have, want := names(m.EntriesOf("demo", tagged(text))), names(fresh.EntriesOf("demo", tagged(text))); have != want {
				t.Fatalf("entries of %s: %s, want %s", text, have, want)
			}
			if have, want := names(m.ServicesOf("demo", tagged(text))), names(fresh.ServicesOf("demo", tagged(text))); have != want {
				t.Fatalf("services of %s: %s, want %s", text, have, want)
			}
		}
		for _, each := range all {
			if p, is := each.(*Pod); is {
				if have, want := len(m.SlicesOf(p)), len(fresh.SlicesOf(p)); have != want {
					t.Fatalf("%d services by slices of %s, want %d", have, p.Key(), want)
				}
			}
			key := each.Key()
			is := m.Late(key)
			if is != fresh.Late(key) {
				t.Fatalf("%s: late is %t", key, is)
			}
			if was[key] != is && !slices.Contains(keys, key) {
				t.Fatalf("%s: late is %t, and it isn't told", key, is)
			}
			was[key] = is
		}
		if change.Object == nil {
			delete(was, change.Key)
		}
	}
}

func names[T Object](objects []T) string {
	var list []string
	for _, o := range objects {
		list = append(list, o.Key().Name.Name)
	}
	return strings.Join(list, " ")
}
