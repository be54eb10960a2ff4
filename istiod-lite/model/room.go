package model

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// MaxMappings is how many ports of services a workload has at most, with those of a ServiceEntry counted once for each of its
// hosts, and what has no ports counted as one. As many again it may have of services without a selector, whose EndpointSlices name
// it. Every proxy reads all of them, for every workload.
const MaxMappings = 2048

// MaxPolicies is how many AuthorizationPolicies may select a workload. Every proxy reads their names, for every workload.
const MaxPolicies = 1024

// crowd are workloads that the same choose: all of a namespace with the same labels, by selectors; or the one pod, by the slices of
// services without a selector.
type crowd struct {
	namespace string
	labels    Labels
	pod, uid  string
}

// chooser is a Service or ServiceEntry that makes workloads its endpoints.
type chooser interface {
	Object
	// mappings is what it means for each of them.
	mappings() int
	// turn is when it takes room in a crowd of the namespace.
	turn(namespace string) turn
}

// turn orders what chooses a crowd: Services come before ServiceEntries, those of the workloads' own namespace before others, the older
// before the younger, so that what is added takes no place away. From the first that finds no room on, nothing does, so that one turn
// is all there is to know of a crowd, however much chooses it; what finds none in any workload is passed over.
type turn struct {
	rank    int
	created time.Time
	name    Name
}

func (t turn) compare(other turn) int {
	return cmp.Or(t.rank-other.rank, older(t.created, other.created, t.name, other.name))
}

func (s *Service) mappings() int { return max(1, len(s.Ports)) }

func (s *Service) turn(namespace string) turn {
	t := turn{0, s.Created, s.Key().Name}
	if s.Namespace != namespace {
		t.rank = 1
	}
	return t
}

// TooLarge tells whether the service has more ports than there is room for in any workload.
func (s *Service) TooLarge() bool { return s.mappings() > MaxMappings }

func (e *ServiceEntry) mappings() int {
	if e.Resolution == ResolveNone {
		return 0
	}
	return len(e.Hosts) * max(1, len(e.Ports))
}

func (e *ServiceEntry) turn(string) turn { return turn{2, e.Created, e.Key().Name} }

// Late tells whether there are workloads that a Service or ServiceEntry chooses and that aren't its endpoints, since they have
// MaxMappings already.
func (m *Model) Late(key Key) bool {
	o, _ := m.Object(key).(chooser)
	if o == nil || len(m.full) == 0 {
		return false
	}
	for c := range m.crowdsOf(o) {
		if m.late(c, o) {
			return true
		}
	}
	return false
}

// late tells whether what chooses a crowd finds no room there.
func (m *Model) late(c crowd, o chooser) bool {
	from, full := m.full[c]
	return full && (o.mappings() > MaxMappings || from.shuts(c, o))
}

// shuts tells whether a crowd that has no room from then on has none for what chooses it.
func (t turn) shuts(c crowd, o chooser) bool {
	return o.mappings() > 0 && o.turn(c.namespace).compare(t) >= 0
}

// inTime leaves out of what chooses workloads what is late there.
func inTime[T chooser](m *Model, c crowd, choosers iter.Seq[T]) []T {
	return slices.DeleteFunc(slices.Collect(choosers), func(o T) bool { return m.late(c, o) })
}

// never is the turn of nobody.
var never = turn{rank: 3}

// fullFrom is from when on there is no room in a crowd; in nearly all there is for everything.
func (m *Model) fullFrom(c crowd) (from turn, full bool) {
	if !m.somebody(c) {
		return turn{}, false
	}
	choosers, sum := m.choosers(c), 0
	for _, o := range choosers {
		sum += o.mappings()
	}
	if sum <= MaxMappings {
		return turn{}, false
	}
	slices.SortFunc(choosers, func(a, b chooser) int { return a.turn(c.namespace).compare(b.turn(c.namespace)) })
	room := MaxMappings
	for _, o := range choosers {
		switch {
		case o.mappings() > MaxMappings:
		case o.mappings() > room:
			return o.turn(c.namespace), true
		default:
			room -= o.mappings()
		}
	}
	return never, true
}

// somebody tells whether there is anybody in a crowd.
func (m *Model) somebody(c crowd) bool {
	if c.pod == "" {
		return m.pods.has(c) || m.workloadEntries.has(c)
	}
	pod := m.pods.get(Name{c.namespace, c.pod})
	return pod != nil && pod.UID == c.uid
}

// choosers are what chooses a crowd, or would if there were anybody in it.
func (m *Model) choosers(c crowd) (all []chooser) {
	if c.pod != "" {
		for s := range m.namedBy(podID{Name{c.namespace, c.pod}, c.uid}) {
			all = append(all, s)
		}
		return all
	}
	for s := range m.services.selectedBy(c.namespace, c.labels) {
		all = append(all, s)
	}
	for e := range m.serviceEntries.selectedBy(c.namespace, c.labels) {
		all = append(all, e)
	}
	return all
}

// byHand is the service of a slice whose endpoints were written by hand, or nil.
func (m *Model) byHand(slice *EndpointSlice) *Service {
	s := m.services.all[Name{slice.Namespace, slice.Service}]
	if s == nil || !s.Selector.Empty() {
		return nil
	}
	return s
}

// namedBy are the services to which a pod belongs by nothing but slices, with those; nil if there is none.
func (m *Model) namedBy(pod podID) map[*Service][]*EndpointSlice {
	var found map[*Service][]*EndpointSlice
	for slice := range m.slicesByPod.of(pod) {
		if s := m.byHand(slice); s != nil {
			if found == nil {
				found = make(map[*Service][]*EndpointSlice)
			}
			found[s] = append(found[s], slice)
		}
	}
	return found
}

func older(a, b time.Time, nameA, nameB Name) int {
	return cmp.Or(a.Compare(b), nameA.compare(nameB))
}

// crowdsOf yields the crowds in which an object takes room, or leaves it.
func (m *Model) crowdsOf(object Object) iter.Seq[crowd] {
	return func(yield func(crowd) bool) {
		switch o := object.(type) {
		case *Pod:
			_ = yield(crowd{namespace: o.Namespace, labels: o.Labels}) && yield(crowd{namespace: o.Namespace, pod: o.Name, uid: o.UID})
		case *WorkloadEntry:
			yield(crowd{namespace: o.Namespace, labels: o.Labels})
		case *Service:
			if !o.Selector.Empty() {
				m.selectedCrowds(o.Namespace, o.Selector, yield)
				return
			}
			for slice := range m.slicesByService.of(o.Key().Name) {
				if !namedCrowds(slice, yield) {
					return
				}
			}
		case *EndpointSlice:
			if m.byHand(o) != nil {
				namedCrowds(o, yield)
			}
		case *ServiceEntry:
			if o.Selected {
				m.selectedCrowds(o.Namespace, o.Selector, yield)
			}
		}
	}
}

func (m *Model) selectedCrowds(namespace string, selector Labels, yield func(crowd) bool) {
	for _, sets := range []iter.Seq[Labels]{m.pods.sets(namespace, selector), m.workloadEntries.sets(namespace, selector)} {
		for labels := range sets {
			if !yield(crowd{namespace: namespace, labels: labels}) {
				return
			}
		}
	}
}

// namedCrowds yields the pods that a slice names, and tells whether more are wanted.
func namedCrowds(slice *EndpointSlice, yield func(crowd) bool) bool {
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if e.IsPod() && !yield(crowd{namespace: e.Pod.Namespace, pod: e.Pod.Name, uid: e.PodUID}) {
			return false
		}
	}
	return true
}

// room notes the crowds in which an object that comes or goes takes room, or leaves it. Whether a service is late among pods goes by
// the slices that name them, too.
func (d *dirty) room(object Object) {
	m := d.model
	for c := range m.crowdsOf(object) {
		d.crowds[c] = struct{}{}
		if slice, is := object.(*EndpointSlice); is && m.isFull(c) {
			d.mark(m.byHand(slice).Key())
		}
	}
}

func (m *Model) isFull(c crowd) bool {
	_, full := m.full[c]
	return full
}

// seat looks again who is late in the crowds that were noted, and marks those of which that is news. The workloads are
// marked already: what comes late there chooses them.
func (d *dirty) seat() {
	m := d.model
	for c := range d.crowds {
		before, was := m.full[c]
		now, is := m.fullFrom(c)
		switch {
		case is:
			m.full[c] = now
		case was:
			delete(m.full, c)
		default:
			continue
		}
		for _, o := range m.choosers(c) {
			if was != is && o.mappings() > MaxMappings || (was && before.shuts(c, o)) != (is && now.shuts(c, o)) {
				d.mark(o.Key())
			}
		}
	}
}
