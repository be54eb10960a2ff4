package state

import "net/netip"

// Table is one immutable state of the mesh.
type Table struct{}

func newTable() *Table { return &Table{} }

func (t *Table) with(changes) *Table { return t }

// Workload returns the workload of that uid, or nil.
func (t *Table) Workload(uid string) *Workload { return nil }

// ByPod returns the workload of that namespace, name and service account, or nil.
func (t *Table) ByPod(namespace, name, serviceAccount string) *Workload { return nil }

// Find returns what an address means to clients in a namespace: a workload, else a service, else neither.
func (t *Table) Find(network string, ip netip.Addr, clientNamespace string) (*Workload, *Service) {
	return nil, nil
}

// VIP returns the service that has the virtual address, or a range that contains it, for clients in a namespace, or nil.
func (t *Table) VIP(network string, ip netip.Addr, clientNamespace string) *Service { return nil }

// WorkloadAt returns the workload with that address, or nil.
func (t *Table) WorkloadAt(network string, ip netip.Addr) *Workload { return nil }

// WorkloadByHost returns a workload with that namespace and hostname, or nil.
func (t *Table) WorkloadByHost(namespace, hostname string) *Workload { return nil }

// Service returns the service of that namespace and hostname, or nil.
func (t *Table) Service(namespace, hostname string) *Service { return nil }

// ServicesByHost returns the services of that hostname, ordered by namespace.
func (t *Table) ServicesByHost(hostname string) []*Service { return nil }

// Endpoints returns the endpoints of a service, which the caller must not change.
func (t *Table) Endpoints(svc *Service) []Endpoint { return nil }

// MaxCapacity returns the largest capacity among the service's endpoints.
func (t *Table) MaxCapacity(svc *Service) uint32 { return 0 }

// PoliciesFor returns the policies that are for a workload, which the caller must not change, and the names of those
// that it lists but that are not known.
func (t *Table) PoliciesFor(w *Workload) (list []*Policy, missing []string) { return nil, nil }

// Policy returns the policy of that namespace and name, or nil.
func (t *Table) Policy(namespace, name string) *Policy { return nil }

// Workloads returns all workloads ordered by uid.
func (t *Table) Workloads() []*Workload { return nil }

// Services returns all services ordered by namespace and hostname.
func (t *Table) Services() []*Service { return nil }

// Policies returns all policies ordered by namespace and name.
func (t *Table) Policies() []*Policy { return nil }
