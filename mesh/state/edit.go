package state

import (
	"cmp"
	"slices"
)

// changes is an Update after decoding.
type changes struct {
	workloads        []*Workload
	services         []*Service
	policies         []*Policy
	removedAddresses []string
	removedPolicies  []string
	identities       identities // of the workloads
}

// edit is a table in the making, which shares with the one before whatever does not change.
type edit struct {
	Table
	batch *batch
}

// with returns the table after the changes. It costs time by the number of changes, not by the size of the table.
func (t *Table) with(c changes) *Table {
	e := &edit{Table: *t, batch: new(batch)}
	for _, name := range c.removedAddresses {
		e.removeAddress(name)
	}
	for _, name := range c.removedPolicies {
		if name, ok := parseName(name); ok {
			e.removePolicy(name)
		}
	}
	for _, p := range c.policies {
		e.putPolicy(p)
	}
	for _, s := range c.services {
		e.putService(s)
	}
	for _, w := range c.workloads {
		e.putWorkload(w)
	}
	return &e.Table
}

// removeAddress takes away the workload of that uid, else the service of that namespace/hostname.
func (e *edit) removeAddress(name string) {
	if w := e.workloads.get(name); w != nil {
		e.removeWorkload(w)
		return
	}
	if name, ok := parseName(name); ok {
		e.removeService(name)
	}
}

func (e *edit) putWorkload(w *Workload) {
	if old := e.workloads.get(w.UID); old != nil {
		e.takeOut(old)
		if old.Identity != w.Identity || old.Network != w.Network || !slices.Equal(old.Addresses, w.Addresses) {
			e.turnover++
		}
	}
	e.workloads.set(e.batch, w.UID, w)
	byUID := func(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) }
	insert(&e.pods, e.batch, podName{w.Namespace, w.Name, w.ServiceAccount}, w, byUID)
	for _, at := range addressesOf(w) {
		if len(e.addresses.get(at)) > 0 {
			e.turnover++ // another has it too: which one counts may change
		}
		insert(&e.addresses, e.batch, at, w, compareOwners)
	}
	if w.Hostname != "" {
		insert(&e.hosts, e.batch, Name{w.Namespace, w.Hostname}, w, compareOwners)
	}
	for _, of := range w.Services {
		if name, ok := parseName(of.Service); ok {
			m := e.changedMembers(name)
			m.workloads.set(e.batch, w.UID, Endpoint{w, of.Ports})
		}
	}
}

func (e *edit) removeWorkload(w *Workload) {
	e.takeOut(w)
	e.turnover++
}

func (e *edit) takeOut(w *Workload) {
	e.workloads.remove(e.batch, w.UID)
	drop(&e.pods, e.batch, podName{w.Namespace, w.Name, w.ServiceAccount}, w)
	for _, at := range addressesOf(w) {
		drop(&e.addresses, e.batch, at, w)
	}
	if w.Hostname != "" {
		drop(&e.hosts, e.batch, Name{w.Namespace, w.Hostname}, w)
	}
	for _, of := range w.Services {
		if name, ok := parseName(of.Service); ok {
			m := e.changedMembers(name)
			m.workloads.remove(e.batch, w.UID)
			e.forgetEmpty(name, m)
		}
	}
}

// addressesOf returns the addresses under which a workload can be looked up.
func addressesOf(w *Workload) []NetworkAddress {
	if w.HostNetwork {
		return nil
	}
	list := make([]NetworkAddress, len(w.Addresses))
	for i, addr := range w.Addresses {
		list[i] = NetworkAddress{w.Network, addr}
	}
	return list
}

func (e *edit) putService(s *Service) {
	e.removeService(s.Key())
	e.changedMembers(s.Key()).service = s
	insert(&e.hostnames, e.batch, s.Hostname, s, compareServices)
	for _, vip := range s.VIPs {
		insert(&e.vips, e.batch, vip, s, compareServices)
	}
	for _, r := range s.CIDRs {
		if len(e.ranges.get(r)) == 0 {
			e.lengths.set(e.batch, r.Network, e.lengths.get(r.Network).count(r.Prefix, 1))
		}
		insert(&e.ranges, e.batch, r, s, compareServices)
	}
}

func (e *edit) removeService(name Name) {
	m := e.services.get(name)
	if m == nil || m.service == nil {
		return
	}
	s := m.service
	m = e.changedMembers(name)
	m.service = nil
	e.forgetEmpty(name, m)
	drop(&e.hostnames, e.batch, s.Hostname, s)
	for _, vip := range s.VIPs {
		drop(&e.vips, e.batch, vip, s)
	}
	for _, r := range s.CIDRs {
		drop(&e.ranges, e.batch, r, s)
		if len(e.ranges.get(r)) == 0 {
			e.lengths.set(e.batch, r.Network, e.lengths.get(r.Network).count(r.Prefix, -1))
		}
	}
}

// changedMembers returns a copy, already in place, of the members of a service; the caller may change it.
func (e *edit) changedMembers(name Name) *members {
	changed := new(members)
	if old := e.services.get(name); old != nil {
		changed.service, changed.workloads = old.service, old.workloads
	} else {
		changed.workloads = tree[string, Endpoint]{hash: e.workloads.hash}
	}
	e.services.set(e.batch, name, changed)
	return changed
}

func (e *edit) forgetEmpty(name Name, m *members) {
	if m.service == nil && m.workloads.size == 0 {
		e.services.remove(e.batch, name)
	}
}

func (e *edit) putPolicy(p *Policy) {
	e.removePolicy(p.Key())
	e.policies.set(e.batch, p.Key(), p)
	switch p.Scope {
	case ScopeGlobal:
		e.global = e.global.with(p)
	case ScopeNamespace:
		e.namespace.set(e.batch, p.Namespace, e.namespace.get(p.Namespace).with(p))
	}
}

func (e *edit) removePolicy(name Name) {
	p := e.policies.get(name)
	if p == nil {
		return
	}
	e.policies.remove(e.batch, name)
	switch p.Scope {
	case ScopeGlobal:
		e.global = e.global.without(p)
	case ScopeNamespace:
		if left := e.namespace.get(p.Namespace).without(p); left != nil {
			e.namespace.set(e.batch, p.Namespace, left)
		} else {
			e.namespace.remove(e.batch, p.Namespace)
		}
	}
}

// insert puts a value into the ordered list under a key.
func insert[K comparable, T any](t *tree[K, []*T], b *batch, key K, value *T, compare func(a, b *T) int) {
	t.set(b, key, inserted(t.get(key), value, compare))
}

// drop takes a value out of the list under a key.
func drop[K comparable, T any](t *tree[K, []*T], b *batch, key K, value *T) {
	if left := without(t.get(key), value); len(left) > 0 {
		t.set(b, key, left)
	} else {
		t.remove(b, key)
	}
}

// inserted returns a new list, since older tables share the old one.
func inserted[T any](list []*T, value *T, compare func(a, b *T) int) []*T {
	i, _ := slices.BinarySearchFunc(list, value, compare)
	return slices.Concat(list[:i], []*T{value}, list[i:])
}

func without[T any](list []*T, value *T) []*T {
	left := make([]*T, 0, len(list))
	for _, v := range list {
		if v != value {
			left = append(left, v)
		}
	}
	return left
}
