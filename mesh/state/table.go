package state

import (
	"cmp"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Table is one immutable state of the mesh. All methods are safe to call from any goroutine and take no lock; slices
// they return are shared, so callers must not change them.
type Table struct {
	workloads tree[string, *Workload]           // by uid
	pods      tree[podName, []*Workload]        // usually one; one per cluster of a multi-cluster mesh
	addresses tree[NetworkAddress, []*Workload] // the preferred one first
	hosts     tree[Name, []*Workload]           // by namespace and hostname

	services  tree[Name, *members]             // also of services which only workloads speak of yet
	hostnames tree[string, []*Service]         // ordered as compareServices
	vips      tree[NetworkAddress, []*Service] // ordered as compareServices
	ranges    tree[NetworkPrefix, []*Service]  // ordered as compareServices
	lengths   tree[string, prefixLengths]      // by network, of its ranges

	policies  tree[Name, *Policy]
	namespace tree[string, *PolicySet] // those with ScopeNamespace
	global    *PolicySet

	turnover uint64 // see Turnover

	preferred string // the namespace whose ranges come before those of others, or ""
}

// podName is how a node's agent names a pod.
type podName struct{ namespace, name, serviceAccount string }

func newTable() *Table {
	seed := maphash.MakeSeed()
	return &Table{
		workloads: newTree[string, *Workload](seed),
		pods:      newTree[podName, []*Workload](seed),
		addresses: newTree[NetworkAddress, []*Workload](seed),
		hosts:     newTree[Name, []*Workload](seed),
		services:  newTree[Name, *members](seed),
		hostnames: newTree[string, []*Service](seed),
		vips:      newTree[NetworkAddress, []*Service](seed),
		ranges:    newTree[NetworkPrefix, []*Service](seed),
		lengths:   newTree[string, prefixLengths](seed),
		policies:  newTree[Name, *Policy](seed),
		namespace: newTree[string, *PolicySet](seed),
	}
}

// Workload returns the workload of that uid, or nil.
func (t *Table) Workload(uid string) *Workload { return t.workloads.get(uid) }

// ByPod returns the workload of that namespace, name and service account, or nil. If several clusters have such a pod,
// it is the one with the smallest uid.
func (t *Table) ByPod(namespace, name, serviceAccount string) *Workload {
	return first(t.pods.get(podName{namespace, name, serviceAccount}))
}

// WorkloadAt returns the workload with that address, or nil. If several have it, a pod comes before other workloads,
// and one that takes HBONE before one that doesn't. Workloads in their node's network have no address of their own.
func (t *Table) WorkloadAt(network string, ip netip.Addr) *Workload {
	return first(t.addresses.get(NetworkAddress{network, ip.Unmap()}))
}

// WorkloadByHost returns the workload with that namespace and hostname, or nil. If several have it, the order is that of
// WorkloadAt.
func (t *Table) WorkloadByHost(namespace, hostname string) *Workload {
	return first(t.hosts.get(Name{namespace, hostname}))
}

// Turnover is a number that differs between two tables of a store if an address has lost its owner in between, or has got another
// one, or its owner has got another identity. It is the same when workloads only came.
func (t *Table) Turnover() uint64 { return t.turnover }

// Find returns what an address means to clients in a namespace: a workload, a service, neither; or both, if the service has
// the workload's own address as a virtual one. A range of virtual addresses yields to the workloads in it.
func (t *Table) Find(network string, ip netip.Addr, clientNamespace string) (*Workload, *Service) {
	w, svc := t.WorkloadAt(network, ip), t.VIP(network, ip, clientNamespace)
	if w != nil && svc != nil && !svc.HasVIP(network, ip) {
		return w, nil
	}
	return w, svc
}

// VIP returns the service that has the virtual address, else one with a range that contains it, or nil, for clients in
// a namespace. Among several it is one of that namespace, else one with the longest range, else one of the store's preferred
// namespace, else the canonical one.
func (t *Table) VIP(network string, ip netip.Addr, clientNamespace string) *Service {
	ip = ip.Unmap()
	if s := nearest(t.vips.get(NetworkAddress{network, ip}), clientNamespace, ""); s != nil {
		return s
	}
	var best *Service
	for _, used := range t.lengths.get(network).of(ip) {
		prefix, err := ip.Prefix(used.bits)
		if err != nil {
			return nil // the zero address
		}
		s := nearest(t.ranges.get(NetworkPrefix{network, prefix}), clientNamespace, t.preferred)
		if s != nil && s.Namespace == clientNamespace {
			return s
		}
		if best == nil {
			best = s
		}
	}
	return best
}

// ServicesAt yields the services that have the virtual address, and those with a range that contains it, whoever may see
// them.
func (t *Table) ServicesAt(network string, ip netip.Addr) iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		ip := ip.Unmap()
		for _, s := range t.vips.get(NetworkAddress{network, ip}) {
			if !yield(s) {
				return
			}
		}
		for _, used := range t.lengths.get(network).of(ip) {
			prefix, err := ip.Prefix(used.bits)
			if err != nil {
				return // the zero address
			}
			for _, s := range t.ranges.get(NetworkPrefix{network, prefix}) {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// nearest returns the service that clients in a namespace mean, or nil if they may see none.
func nearest(services []*Service, clientNamespace, preferred string) (best *Service) {
	rank := -1
	for _, s := range services {
		r := 0
		switch {
		case !s.VisibleFrom(clientNamespace):
			continue
		case s.Namespace == clientNamespace:
			r = 3
		case preferred != "" && s.Namespace == preferred:
			r = 2
		case s.Canonical:
			r = 1
		}
		if r > rank {
			best, rank = s, r
		}
	}
	return best
}

// Service returns the service of that namespace and hostname, or nil.
func (t *Table) Service(namespace, hostname string) *Service {
	if m := t.services.get(Name{namespace, hostname}); m != nil {
		return m.service
	}
	return nil
}

// ServicesByHost returns the services of that hostname, ordered by namespace.
func (t *Table) ServicesByHost(hostname string) []*Service { return t.hostnames.get(hostname) }

// Policy returns the policy of that namespace and name, or nil.
func (t *Table) Policy(namespace, name string) *Policy { return t.policies.get(Name{namespace, name}) }

// PolicySets returns the policies that are for a workload because of where it is: those of the mesh and those of its
// namespace. Both may be nil.
func (t *Table) PolicySets(w *Workload) (global, namespace *PolicySet) {
	return t.global, t.namespace.get(w.Namespace)
}

// ListedPolicies yields the policies that a workload lists beside those, by their full names; nil for a name that isn't
// known. It doesn't allocate.
func (t *Table) ListedPolicies(w *Workload) iter.Seq2[string, *Policy] {
	return func(yield func(string, *Policy) bool) {
		for _, listed := range w.Policies {
			name, _ := parseName(listed)
			p := t.policies.get(name)
			if p != nil && (p.Scope == ScopeGlobal || p.Scope == ScopeNamespace && p.Namespace == w.Namespace) {
				continue // in a set
			}
			if !yield(listed, p) {
				return
			}
		}
	}
}

// Workloads returns all workloads ordered by uid.
func (t *Table) Workloads() []*Workload {
	list := make([]*Workload, 0, t.workloads.size)
	for _, w := range t.workloads.all() {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) })
	return list
}

// Services returns all services ordered by namespace and hostname.
func (t *Table) Services() []*Service {
	list := make([]*Service, 0, t.services.size)
	for _, m := range t.services.all() {
		if m.service != nil {
			list = append(list, m.service)
		}
	}
	slices.SortFunc(list, compareServices)
	return list
}

// Policies returns all policies ordered by namespace and name.
func (t *Table) Policies() []*Policy {
	list := make([]*Policy, 0, t.policies.size)
	for _, p := range t.policies.all() {
		list = append(list, p)
	}
	slices.SortFunc(list, comparePolicies)
	return list
}

// compareOwners orders workloads with one address: the one that it most likely means first.
func compareOwners(a, b *Workload) int {
	rank := func(w *Workload) int {
		r := 0
		if !strings.Contains(w.UID, "//Pod/") {
			r += 2
		}
		if w.Protocol != HBONE {
			r++
		}
		return r
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.UID, b.UID))
}

func compareServices(a, b *Service) int { return compareNames(a.Key(), b.Key()) }

func comparePolicies(a, b *Policy) int { return compareNames(a.Key(), b.Key()) }

func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func first[T any](list []*T) *T {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}
