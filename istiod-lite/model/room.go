package model

import (
	"cmp"
	"iter"
	"maps"
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
	pod       string
}

// late is what chooses a crowd and finds no room there any more: Services come before ServiceEntries, the older before the
// younger, so that what is added takes no place away.
type late map[Key]struct{}

// mappings is what the service means for each workload that is its endpoint.
func (s *Service) mappings() int { return max(1, len(s.Ports)) }

// TooLarge tells whether the service has more ports than there is room for in any workload.
func (s *Service) TooLarge() bool { return s.mappings() > MaxMappings }

// mappings is what the entry means for each workload that it chooses.
func (e *ServiceEntry) mappings() int {
	if e.Resolution == ResolveNone {
		return 0
	}
	return len(e.Hosts) * max(1, len(e.Ports))
}

// Late tells whether there are workloads that a Service or ServiceEntry chooses and that aren't its endpoints, since they have
// MaxMappings already.
func (m *Model) Late(chooser Key) bool {
	_, is := m.lateIn[chooser]
	return is
}

// inTime leaves out of what chooses workloads what is late there.
func inTime[T Object](m *Model, c crowd, choosers iter.Seq[T]) []T {
	return slices.DeleteFunc(slices.Collect(choosers), func(o T) bool {
		_, is := m.late[c][o.Key()]
		return is
	})
}

// latecomers looks what finds no room in a crowd; in nearly all everything does.
func (m *Model) latecomers(c crowd) late {
	services, entries := m.choosers(c)
	sum := 0
	for _, s := range services {
		sum += s.mappings()
	}
	for _, e := range entries {
		sum += e.mappings()
	}
	if sum <= MaxMappings {
		return nil
	}
	found, room := make(late), MaxMappings
	seat := func(key Key, mappings int) {
		if mappings > room {
			found[key] = struct{}{}
		} else {
			room -= mappings
		}
	}
	slices.SortFunc(services, func(a, b *Service) int { // those of the workloads' own namespace first
		return cmp.Or(abroad(a, c.namespace)-abroad(b, c.namespace), older(a.Created, b.Created, a.Key().Name, b.Key().Name))
	})
	for _, s := range services {
		seat(s.Key(), s.mappings())
	}
	slices.SortFunc(entries, func(a, b *ServiceEntry) int { return older(a.Created, b.Created, a.Key().Name, b.Key().Name) })
	for _, e := range entries {
		seat(e.Key(), e.mappings())
	}
	return found
}

// choosers are what chooses a crowd; nothing if there is nobody in it.
func (m *Model) choosers(c crowd) ([]*Service, []*ServiceEntry) {
	if c.pod != "" {
		pod := m.pods.get(Name{c.namespace, c.pod})
		if pod == nil {
			return nil, nil
		}
		return slices.Collect(maps.Keys(m.namedBy(pod))), nil
	}
	if !m.pods.has(c) && !m.workloadEntries.has(c) {
		return nil, nil
	}
	return slices.Collect(m.services.selectedBy(c.namespace, c.labels)), slices.Collect(m.serviceEntries.selectedBy(c.namespace, c.labels))
}

func abroad(s *Service, namespace string) int {
	if s.Namespace == namespace {
		return 0
	}
	return 1
}

// byHand is the service of a slice whose endpoints were written by hand, or nil.
func (m *Model) byHand(slice *EndpointSlice) *Service {
	s := m.services.all[Name{slice.Namespace, slice.Service}]
	if s == nil || !s.Selector.Empty() {
		return nil
	}
	return s
}

// namedBy are the services to which the pod belongs by nothing but slices, with those; nil if there is none.
func (m *Model) namedBy(p *Pod) map[*Service][]*EndpointSlice {
	var found map[*Service][]*EndpointSlice
	for slice := range m.slicesByPod.of(podID{p.Key().Name, p.UID}) {
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

// room notes the crowds in which an object that comes or goes takes room, or leaves it.
func (d *dirty) room(object Object) {
	choose := func(namespace string, selector Labels) {
		for labels := range d.model.pods.sets(namespace, selector) {
			d.crowds[crowd{namespace: namespace, labels: labels}] = struct{}{}
		}
		for labels := range d.model.workloadEntries.sets(namespace, selector) {
			d.crowds[crowd{namespace: namespace, labels: labels}] = struct{}{}
		}
	}
	switch o := object.(type) {
	case *Pod:
		d.crowds[crowd{namespace: o.Namespace, labels: o.Labels}] = struct{}{}
		d.crowds[crowd{namespace: o.Namespace, pod: o.Name}] = struct{}{}
	case *WorkloadEntry:
		d.crowds[crowd{namespace: o.Namespace, labels: o.Labels}] = struct{}{}
	case *Service:
		if !o.Selector.Empty() {
			choose(o.Namespace, o.Selector)
			return
		}
		for slice := range d.model.slicesByService.of(o.Key().Name) {
			d.roomOf(slice)
		}
	case *EndpointSlice:
		if d.model.byHand(o) != nil {
			d.roomOf(o)
		}
	case *ServiceEntry:
		if o.Selected {
			choose(o.Namespace, o.Selector)
		}
	}
}

// roomOf notes the pods that a slice names.
func (d *dirty) roomOf(slice *EndpointSlice) {
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.IsPod() {
			d.crowds[crowd{namespace: e.Pod.Namespace, pod: e.Pod.Name}] = struct{}{}
		}
	}
}

// seat looks again who is late in the crowds that were noted, and marks those of which that is news. The workloads are
// marked already: what comes late there chooses them.
func (d *dirty) seat() {
	m := d.model
	for c := range d.crowds {
		before, now := m.late[c], m.latecomers(c)
		for key := range before {
			if _, still := now[key]; !still {
				m.lateIn.remove(key, c)
				d.mark(key)
			}
		}
		for key := range now {
			if _, already := before[key]; !already {
				m.lateIn.add(key, c)
				d.mark(key)
			}
		}
		if m.late[c] = now; len(now) == 0 {
			delete(m.late, c)
		}
	}
}
