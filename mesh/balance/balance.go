// Package balance chooses the endpoint of a service that a connection goes to, and the address to dial of a workload.
//
// What can be known before a connection comes is prepared once and kept with the endpoints of the service (rank.go): which
// of them can take it, and how well each fits the client. Of the best, two are drawn at random by their capacities, and the
// one is taken that promises to answer sooner, by its open connections and, where requests are seen, by how it has answered lately (health.go); those that just
// failed come last (open.go).
package balance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// What the caller has to do instead of dialling Choice.Addr.
var (
	// ErrPassthrough: the service wants connections to go where they were sent.
	ErrPassthrough = errors.New("the service passes connections through")
	// ErrNeedsDNS: Choice.Workload has no address; its Hostname has to be resolved. Choice.Addr has the port only.
	ErrNeedsDNS = errors.New("the workload's hostname has to be resolved")
	// ErrRemoteNetwork: Choice.Workload is in another network, to be reached through its NetworkGateway, which is set.
	ErrRemoteNetwork = errors.New("the workload is in another network")
	// ErrNoEndpoint: nothing can take the connection.
	ErrNoEndpoint = errors.New("no healthy upstream")
)

// draws is how often a random endpoint is drawn before all are looked at, when those that were tried don't count.
const draws = 8

// Client is who wants to connect. Table, From and Dialled are required.
type Client struct {
	Table   *state.Table
	From    *state.Workload
	Dialled netip.Addr // an endpoint's address is of the same family where possible
	Tried   []string   // uids of workloads that are not to be chosen again
	Open    *Open      // nil as if there were no connections
	Health  *Health    // nil as if all endpoints served alike
}

// Choice is where a connection goes.
type Choice struct {
	Workload *state.Workload
	Service  *state.Service // the service through which the workload was chosen, nil if by its own address or hostname
	Addr     netip.AddrPort // an address of the workload and the target port
}

// Pick chooses an endpoint for a connection to a port of the service. The errors above can be told apart by errors.Is; with
// ErrNeedsDNS and ErrRemoteNetwork the Choice is filled in as far as it goes.
func (c *Client) Pick(svc *state.Service, port uint16) (Choice, error) {
	if svc.LoadBalancing.Mode == state.ModePassthrough {
		return Choice{Service: svc}, ErrPassthrough
	}
	if _, declared := svc.Port(port); !declared { // asked before anything is prepared: clients choose ports as they like
		return Choice{Service: svc}, fmt.Errorf("%w: service %s has no port %d", ErrNoEndpoint, svc.Key(), port)
	}
	choice, err := c.choose(c.purpose(svc, port))
	return c.local(choice, err)
}

// purpose says what an endpoint is wanted for.
func (c *Client) purpose(svc *state.Service, port uint16) purpose {
	return purpose{
		svc: svc, port: port,
		locality: c.From.Locality, node: c.From.Node, cluster: c.From.ClusterID, network: c.From.Network,
	}
}

// choose takes one of the best endpoints that were not tried; of those that failed just now only if there is no other.
func (c *Client) choose(p purpose) (Choice, error) {
	r := rankingOf(c.Table, p)
	for _, wary := range [...]bool{true, false} {
		for i := range r.tiers {
			if chosen := c.fromTier(p.svc, &r.tiers[i], wary); chosen != nil {
				return c.finish(Choice{chosen.workload, p.svc, netip.AddrPortFrom(netip.Addr{}, chosen.port)})
			}
		}
		if c.Open == nil {
			break // nothing to be wary of
		}
	}
	if len(r.tiers) > 0 {
		return Choice{Service: p.svc}, fmt.Errorf("%w: no other endpoint of service %s can take port %d", ErrNoEndpoint, p.svc.Key(), p.port)
	}
	n := len(c.Table.Endpoints(p.svc))
	return Choice{Service: p.svc}, fmt.Errorf("%w: none of the %d endpoints of service %s can take port %d", ErrNoEndpoint, n, p.svc.Key(), p.port)
}

// fromTier takes of two candidates the one that promises to answer sooner, or returns nil.
func (c *Client) fromTier(svc *state.Service, t *tier, wary bool) *candidate {
	a := c.draw(t, wary)
	if a == nil || c.Open == nil {
		return a
	}
	b := a
	for tries := 0; b == a && tries < draws && len(t.list) > 1; tries++ {
		b = c.draw(t, wary)
	}
	if b == nil { // a has just failed for somebody else
		b = a
	}
	slownessA, slownessB := c.Health.compare(svc, a, b)
	if slownessB*c.load(b) < slownessA*c.load(a) {
		a = b
	}
	c.Open.chosen(a)
	return a
}

// load is how many a candidate would have to answer, as measured by its capacity.
func (c *Client) load(one *candidate) float64 {
	return 1 + float64(c.Open.Count(one.workload))/float64(one.workload.Capacity)
}

// draw takes a random candidate that will do, or returns nil.
func (c *Client) draw(t *tier, wary bool) *candidate {
	for range draws {
		if one := t.random(); c.willDo(one, wary) {
			return one
		}
	}
	for i := range t.list {
		if one := &t.list[i]; c.willDo(one, wary) {
			return one
		}
	}
	return nil
}

func (c *Client) willDo(one *candidate, wary bool) bool {
	return !c.tried(one.workload) && !(wary && c.Open != nil && c.Open.shuns(one))
}

func (c *Client) tried(w *state.Workload) bool { return slices.Contains(c.Tried, w.UID) }

// finish fills in the address of the chosen workload; the port is there.
func (c *Client) finish(choice Choice) (Choice, error) {
	w := choice.Workload
	addr, err := AddrOf(w, choice.Service, c.Dialled)
	choice.Addr = netip.AddrPortFrom(addr, choice.Addr.Port())
	if errors.Is(err, ErrNoEndpoint) {
		err = fmt.Errorf("%w: workload %s has no address", err, w.UID)
	}
	return choice, err
}

// AddrOf returns the address to dial of w, which was reached through svc (nil if by its own address) for a client that
// dialled the given one. Errors are ErrNeedsDNS, ErrRemoteNetwork and ErrNoEndpoint.
func AddrOf(w *state.Workload, svc *state.Service, dialled netip.Addr) (netip.Addr, error) {
	if slices.Contains(w.Addresses, dialled) {
		return dialled, nil
	}
	var other netip.Addr
	for _, addr := range w.Addresses {
		switch {
		case svc != nil && !svc.IPFamilies.Permit(addr):
		case addr.Is4() == dialled.Is4():
			return addr, nil
		case !other.IsValid():
			other = addr
		}
	}
	switch {
	case other.IsValid():
		return other, nil
	case w.Hostname != "":
		return netip.Addr{}, ErrNeedsDNS
	case w.NetworkGateway != nil:
		return netip.Addr{}, ErrRemoteNetwork
	default:
		return netip.Addr{}, ErrNoEndpoint
	}
}

// local returns what the client makes of a choice: a workload in another network is reached through that one's gateway.
func (c *Client) local(choice Choice, err error) (Choice, error) {
	w := choice.Workload
	switch {
	case w == nil || errors.Is(err, ErrNoEndpoint):
		return choice, err
	case w.Network == c.From.Network && errors.Is(err, ErrRemoteNetwork):
		return choice, fmt.Errorf("%w: workload %s has no address", ErrNoEndpoint, w.UID)
	case w.Network == c.From.Network:
		return choice, err
	case w.NetworkGateway == nil:
		return choice, fmt.Errorf("%w: workload %s is in network %q, which has no gateway", ErrNoEndpoint, w.UID, w.Network)
	default:
		return choice, ErrRemoteNetwork
	}
}
