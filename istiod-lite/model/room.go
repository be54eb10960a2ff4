package model

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// MaxMappings is how many ports of services a workload has at most, with those of a ServiceEntry counted once for each of its
// hosts. Every proxy reads all of them, for every workload.
const MaxMappings = 2048

// crowd are the workloads of a namespace that have the same labels: the same choose them.
type crowd struct {
	namespace string
	labels    Labels
}

// late is what chooses a crowd and finds no room there any more: Services come before ServiceEntries, the older before the
// younger, so that what is added takes no place away.
type late map[Key]struct{}

// mappings is what the entry means for each workload that it chooses.
func (e *ServiceEntry) mappings() int {
	if e.Resolution == ResolveNone {
		return 0
	}
	return len(e.Hosts) * len(e.Ports)
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
	if !m.pods.has(c) && !m.workloadEntries.has(c) {
		return nil
	}
	services, entries := m.services.selectedBy(c.namespace, c.labels), m.serviceEntries.selectedBy(c.namespace, c.labels)
	sum := 0
	for s := range services {
		sum += len(s.Ports)
	}
	for e := range entries {
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
	for _, s := range slices.SortedFunc(services, func(a, b *Service) int { return older(a.Created, b.Created, a.Name, b.Name) }) {
		seat(s.Key(), len(s.Ports))
	}
	for _, e := range slices.SortedFunc(entries, func(a, b *ServiceEntry) int { return older(a.Created, b.Created, a.Name, b.Name) }) {
		seat(e.Key(), e.mappings())
	}
	return found
}

func older(a, b time.Time, nameA, nameB string) int {
	return cmp.Or(a.Compare(b), cmp.Compare(nameA, nameB))
}

// room notes the crowds in which an object that comes or goes takes room, or leaves it.
func (d *dirty) room(object Object) {
	choose := func(namespace string, selector Labels) {
		for labels := range d.model.pods.sets(namespace, selector) {
			d.crowds[crowd{namespace, labels}] = struct{}{}
		}
		for labels := range d.model.workloadEntries.sets(namespace, selector) {
			d.crowds[crowd{namespace, labels}] = struct{}{}
		}
	}
	switch o := object.(type) {
	case *Pod:
		d.crowds[crowd{o.Namespace, o.Labels}] = struct{}{}
	case *WorkloadEntry:
		d.crowds[crowd{o.Namespace, o.Labels}] = struct{}{}
	case *Service:
		if !o.Selector.Empty() {
			choose(o.Namespace, o.Selector)
		}
	case *ServiceEntry:
		if o.Selected {
			choose(o.Namespace, o.Selector)
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
