package state

import "sync/atomic"

// members are the workloads of a service. Either side may be there before the other.
type members struct {
	service   *Service // nil while only workloads speak of it
	workloads tree[string, Endpoint]

	// ready is made of the two above by the first reader, so that a burst of updates to a large service costs no copies
	// of its endpoints. Two readers at once make equal ones.
	ready atomic.Pointer[Prepared]
}

// Prepared is what choosing among the workloads behind a service needs. A change of the service or of one of them makes a
// new one.
type Prepared struct {
	// List is in no particular order. Unhealthy workloads are left out unless the service wants them.
	List []Endpoint
	// Ranked is what mesh/balance prepared of the list, kept here so that it lives as long.
	Ranked atomic.Value
}

// Endpoint is a workload behind a service.
type Endpoint struct {
	Workload *Workload
	Ports    []Port // as the workload maps the service's ports
}

// Endpoints returns the workloads behind a service, in no particular order. Unhealthy ones are left out unless the
// service wants them.
func (t *Table) Endpoints(svc *Service) []Endpoint { return t.Prepared(svc).List }

// Prepared returns the endpoints of a service as Endpoints does, with a place for what is made of them.
func (t *Table) Prepared(svc *Service) *Prepared {
	m := t.services.get(svc.Key())
	if m == nil || m.service == nil {
		return &Prepared{}
	}
	if ready := m.ready.Load(); ready != nil {
		return ready
	}
	made := &Prepared{List: make([]Endpoint, 0, m.workloads.size)}
	for _, e := range m.workloads.all() {
		if e.Workload.Healthy || m.service.LoadBalancing.AnyHealth {
			made.List = append(made.List, e)
		}
	}
	m.ready.CompareAndSwap(nil, made)
	return m.ready.Load()
}

// Endpoint returns the workload's endpoint of the service, even if it isn't healthy.
func (t *Table) Endpoint(svc *Service, w *Workload) (Endpoint, bool) {
	m := t.services.get(svc.Key())
	if m == nil {
		return Endpoint{}, false
	}
	return m.workloads.find(w.UID)
}
