package balance

import (
	"fmt"
	"math/rand/v2"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// samples is how many random endpoints are tried before all are looked at. In a service whose endpoints are mostly
// alike, which is usual, the first one is taken, so that choosing costs the same for ten as for ten thousand.
const samples = 16

// request is what an endpoint is wanted for.
type request struct {
	svc      *state.Service
	number   uint16     // of the service's port
	port     state.Port // that port
	declared bool       // the service has it
	gateway  bool       // the endpoint is a waypoint or gateway
	from     *state.Workload
}

func newRequest(svc *state.Service, number uint16, from *state.Workload) *request {
	port, declared := svc.Port(number)
	return &request{svc: svc, number: number, port: port, declared: declared, from: from}
}

// endpoint chooses by rank, and within the best rank at random by capacity.
func (r *request) endpoint(t *state.Table) (*state.Endpoint, error) {
	list, maxCapacity := t.Endpoints(r.svc), t.MaxCapacity(r.svc)
	if maxCapacity > 0 {
		for range samples {
			e := &list[rand.IntN(len(list))]
			if rand.Uint32N(maxCapacity) >= e.Workload.Capacity {
				continue // so that each endpoint is met by its capacity
			}
			if _, all, ok := r.rank(e); ok && all {
				return e, nil
			}
		}
	}
	if e := r.search(list); e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("%w: none of the %d endpoints of service %s can take port %d", ErrNoEndpoint, len(list), r.svc.Key(), r.number)
}

// search looks at all endpoints, first for the best rank and what its endpoints weigh, then for the one that is hit.
func (r *request) search(list []state.Endpoint) *state.Endpoint {
	best, weight := -1, uint64(0)
	for i := range list {
		rank, _, ok := r.rank(&list[i])
		switch {
		case !ok || rank < best:
			continue
		case rank > best:
			best, weight = rank, 0
		}
		weight += uint64(list[i].Workload.Capacity)
	}
	if weight == 0 {
		return nil
	}
	at := rand.Uint64N(weight)
	for i := range list {
		if rank, _, ok := r.rank(&list[i]); !ok || rank != best {
			continue
		}
		if capacity := uint64(list[i].Workload.Capacity); at >= capacity {
			at -= capacity
			continue
		}
		return &list[i]
	}
	return nil
}

// rank tells whether the endpoint can take the connection, how well it fits the preferences, and whether it fits all of
// them, which no other endpoint can surpass.
func (r *request) rank(e *state.Endpoint) (rank int, all, ok bool) {
	if !r.reachable(e.Workload) || !r.serves(e) {
		return 0, false, false
	}
	lb := &r.svc.LoadBalancing
	if lb.Mode != state.ModeStrict && lb.Mode != state.ModeFailover {
		return 0, true, true
	}
	all = true
	for i, preference := range lb.Preferences {
		// The network, when it comes first, is no condition for the others, but outweighs them together.
		outweighs := i == 0 && preference == state.PreferNetwork
		if !r.matches(preference, e.Workload) {
			all = false
			if outweighs {
				continue
			}
			break
		}
		if rank++; outweighs {
			rank += len(lb.Preferences)
		}
	}
	return rank, all, all || lb.Mode == state.ModeFailover
}

// matches tells whether a workload has an attribute in common with the client.
func (r *request) matches(p state.Preference, w *state.Workload) bool {
	switch p {
	case state.PreferRegion:
		return w.Locality.Region == r.from.Locality.Region
	case state.PreferZone:
		return w.Locality.Zone == r.from.Locality.Zone
	case state.PreferSubzone:
		return w.Locality.Subzone == r.from.Locality.Subzone
	case state.PreferNode:
		return w.Node == r.from.Node
	case state.PreferCluster:
		return w.ClusterID == r.from.ClusterID
	default:
		return w.Network == r.from.Network
	}
}

// reachable tells whether there is a way to the workload at all.
func (r *request) reachable(w *state.Workload) bool {
	if w.Capacity == 0 {
		return false
	}
	if w.Network != r.from.Network && (w.NetworkGateway != nil || !r.gateway) {
		return w.NetworkGateway != nil
	}
	if w.Hostname != "" {
		return true
	}
	for _, addr := range w.Addresses {
		if r.svc.IPFamilies.Permit(addr) {
			return true
		}
	}
	return false
}

// serves tells whether the endpoint has a port for the connection.
func (r *request) serves(e *state.Endpoint) bool {
	if !r.declared {
		// A proxy which is told the real destination needs no port of its own for it.
		return r.gateway && e.Workload.AppTunnel != nil
	}
	return r.target(e) != 0
}

// target returns the workload's port: its own mapping comes before the service's.
func (r *request) target(e *state.Endpoint) uint16 {
	if own, ok := state.FindPort(e.Ports, r.number); ok && own.Target != 0 {
		return own.Target
	}
	if r.declared {
		return r.port.Target
	}
	return r.number
}
