package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// Waypoint returns the waypoint for a new connection to the service, one of several by their weights, or nil.
func Waypoint(svc *state.Service) *state.Gateway {
	var sum uint64
	for i := range svc.WeightedWaypoints {
		sum += uint64(svc.WeightedWaypoints[i].Weight)
	}
	if sum == 0 {
		return svc.Waypoint
	}
	at := rand.Uint64N(sum)
	for i := range svc.WeightedWaypoints {
		weight := uint64(svc.WeightedWaypoints[i].Weight)
		if at < weight {
			return &svc.WeightedWaypoints[i].Gateway
		}
		at -= weight
	}
	return svc.Waypoint
}

// Gateway chooses an instance of a waypoint. Choice.Addr has the port on which the instance takes HBONE. Errors are as of
// Pick; a waypoint that isn't there is ErrNoEndpoint, never a reason to go round it.
func (c *Client) Gateway(gw *state.Gateway) (Choice, error) {
	choice, err := c.instance(gw)
	return c.local(choice, err)
}

// NetworkGateway is Gateway for the way into another network: its instances may be in that network themselves.
func (c *Client) NetworkGateway(gw *state.Gateway) (Choice, error) {
	choice, err := c.instance(gw)
	if errors.Is(err, ErrRemoteNetwork) {
		err = fmt.Errorf("%w: the network gateway %s has no address itself", ErrNoEndpoint, choice.Workload.UID)
	}
	return choice, err
}

// instance chooses one in whatever network. The family follows the gateway's own address, if that is how it is named.
func (c *Client) instance(gw *state.Gateway) (Choice, error) {
	of := *c
	if gw.Address.Addr.IsValid() {
		of.Dialled = gw.Address.Addr
	}
	w, svc := c.Table.Behind(gw, c.From.Namespace)
	switch {
	case svc != nil:
		p := of.purpose(svc, gw.Port)
		p.gateway = true
		choice, err := of.choose(p)
		if err != nil && choice.Workload == nil {
			err = fmt.Errorf("gateway: %w", err)
		}
		return choice, err
	case w != nil && c.tried(w):
		return Choice{}, fmt.Errorf("%w: there is no other instance of gateway %s", ErrNoEndpoint, gw)
	case w != nil:
		return of.finish(Choice{w, nil, netip.AddrPortFrom(netip.Addr{}, gw.Port)})
	default:
		return Choice{}, fmt.Errorf("%w: gateway %s is unknown", ErrNoEndpoint, gw)
	}
}
