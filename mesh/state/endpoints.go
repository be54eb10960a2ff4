package state

import "sync/atomic"

// members are the workloads of a service. Either side may be there before the other.
type members struct {
	service   *Service // nil while only workloads speak of it
	workloads tree[string, Endpoint]

	// list is made of the two above by the first reader, so that a burst of updates to a large service costs no copies
	// of its endpoints. Two readers at once make equal lists.
	list atomic.Pointer[endpoints]
}

// endpoints is what readers want of members.
type endpoints struct {
	list        []Endpoint
	maxCapacity uint32
}

// Endpoint is a workload behind a service.
type Endpoint struct {
	Workload *Workload
	Ports    []Port // as the workload maps the service's ports
}

// Endpoints returns the workloads behind a service, in no particular order. Unhealthy ones are left out unless the
// service wants them.
func (t *Table) Endpoints(svc *Service) []Endpoint { return t.prepared(svc).list }

// MaxCapacity returns the largest capacity among the service's endpoints.
func (t *Table) MaxCapacity(svc *Service) uint32 { return t.prepared(svc).maxCapacity }

// Endpoint returns the workload's endpoint of the service, even if it isn't healthy.
func (t *Table) Endpoint(svc *Service, w *Workload) (Endpoint, bool) {
	m := t.services.get(svc.Key())
	if m == nil {
		return Endpoint{}, false
	}
	return m.workloads.find(w.UID)
}

func (t *Table) prepared(svc *Service) *endpoints {
	m := t.services.get(svc.Key())
	if m == nil || m.service == nil {
		return &endpoints{}
	}
	if ready := m.list.Load(); ready != nil {
		return ready
	}
	ready := &endpoints{list: make([]Endpoint, 0, m.workloads.size)}
	for _, e := range m.workloads.all() {
		if e.Workload.Healthy || m.service.LoadBalancing.AnyHealth {
			ready.list = append(ready.list, e)
			ready.maxCapacity = max(ready.maxCapacity, e.Workload.Capacity)
		}
	}
	m.list.Store(ready)
	return ready
}
