package balance

import (
	"math/rand/v2"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// maxRankings is how many rankings are kept for a service: one for each port and kind of client. Clients of one node are
// mostly of one kind.
const maxRankings = 64

// purpose is everything that decides how the endpoints of a service rank.
type purpose struct {
	svc     *state.Service
	port    uint16 // of the service
	gateway bool   // the endpoint is a waypoint or gateway

	// What the client has in common with the endpoints, or not.
	locality               state.Locality
	node, cluster, network string
}

// ranking are the endpoints that can take a connection. It is immutable.
type ranking struct {
	purpose
	tiers []tier // the best first
}

// tier is the endpoints of one rank.
type tier struct {
	list []candidate
	// upTo holds the sum of the capacities up to and with each; nil if all are alike.
	upTo []uint64
}

// candidate is an endpoint with the port that takes the connection.
type candidate struct {
	workload *state.Workload
	port     uint16
}

// rankings are what is kept with the endpoints of a service.
type rankings []*ranking

// rankingOf returns the ranking for a purpose, which the first one who asks makes.
func rankingOf(t *state.Table, p purpose) *ranking {
	prepared := t.Prepared(p.svc)
	old := prepared.Ranked.Load()
	known := rankingsIn(old)
	for _, r := range known {
		if r.purpose == p {
			return r
		}
	}
	made := newRanking(prepared.List, p)
	for {
		next := append(slices.Clone(known[max(0, len(known)+1-maxRankings):]), made)
		if prepared.Ranked.CompareAndSwap(old, &next) {
			return made
		}
		old = prepared.Ranked.Load() // somebody else has added one
		known = rankingsIn(old)
	}
}

func rankingsIn(kept any) rankings {
	if list, ok := kept.(*rankings); ok {
		return *list
	}
	return nil
}

func newRanking(list []state.Endpoint, p purpose) *ranking {
	byRank := make([][]candidate, 2*len(p.svc.LoadBalancing.Preferences)+1) // the network may count for all together
	for i := range list {
		if c, rank, ok := p.rank(&list[i]); ok {
			byRank[rank] = append(byRank[rank], c)
		}
	}
	r := &ranking{purpose: p}
	for _, alike := range slices.Backward(byRank) {
		if len(alike) > 0 {
			r.tiers = append(r.tiers, newTier(alike))
		}
	}
	return r
}

func newTier(list []candidate) tier {
	t := tier{list: slices.Clip(list)}
	first := list[0].workload.Capacity
	if !slices.ContainsFunc(list, func(c candidate) bool { return c.workload.Capacity != first }) {
		return t
	}
	sum := uint64(0)
	t.upTo = make([]uint64, len(list))
	for i, c := range list {
		sum += uint64(c.workload.Capacity)
		t.upTo[i] = sum
	}
	return t
}

// random returns one of the candidates, each as often as its capacity says.
func (t *tier) random() *candidate {
	if t.upTo == nil {
		return &t.list[rand.IntN(len(t.list))]
	}
	at := rand.Uint64N(t.upTo[len(t.upTo)-1])
	i, _ := slices.BinarySearch(t.upTo, at+1)
	return &t.list[i]
}

// rank tells whether the endpoint can take the connection, and how well it fits the preferences.
func (p *purpose) rank(e *state.Endpoint) (c candidate, rank int, ok bool) {
	c = candidate{e.Workload, p.target(e)}
	if c.port == 0 || !p.reachable(e.Workload) {
		return c, 0, false
	}
	lb := &p.svc.LoadBalancing
	if lb.Mode != state.ModeStrict && lb.Mode != state.ModeFailover {
		return c, 0, true
	}
	all := true
	for i, preference := range lb.Preferences {
		// The network, when it comes first, is no condition for the others, but outweighs them together.
		outweighs := i == 0 && preference == state.PreferNetwork
		if !p.matches(preference, e.Workload) {
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
	return c, rank, all || lb.Mode == state.ModeFailover
}

// matches tells whether a workload has an attribute in common with the client.
func (p *purpose) matches(preference state.Preference, w *state.Workload) bool {
	switch preference {
	case state.PreferRegion:
		return w.Locality.Region == p.locality.Region
	case state.PreferZone:
		return w.Locality.Zone == p.locality.Zone
	case state.PreferSubzone:
		return w.Locality.Subzone == p.locality.Subzone
	case state.PreferNode:
		return w.Node == p.node
	case state.PreferCluster:
		return w.ClusterID == p.cluster
	default:
		return w.Network == p.network
	}
}

// reachable tells whether there is a way to the workload at all.
func (p *purpose) reachable(w *state.Workload) bool {
	if w.Capacity == 0 {
		return false
	}
	if w.Network != p.network && (w.NetworkGateway != nil || !p.gateway) {
		return w.NetworkGateway != nil
	}
	if w.Hostname != "" {
		return true
	}
	return slices.ContainsFunc(w.Addresses, p.svc.IPFamilies.Permit)
}

// target returns the workload's port for the connection, or 0: its own mapping comes before the service's. A proxy which
// is told the real destination needs no port of its own for it.
func (p *purpose) target(e *state.Endpoint) uint16 {
	port, declared := p.svc.Port(p.port)
	if !declared && !(p.gateway && e.Workload.AppTunnel != nil) {
		return 0
	}
	if own, ok := state.FindPort(e.Ports, p.port); ok && own.Target != 0 {
		return own.Target
	}
	if declared {
		return port.Target
	}
	return p.port
}
