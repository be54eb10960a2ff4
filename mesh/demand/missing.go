package demand

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// Missing returns what has to be asked before a connection by from to an address can be decided; nothing if the table
// suffices. It doesn't wait.
func (c *Cache) Missing(t *state.Table, from *state.Workload, to netip.Addr) []Key {
	if c == nil {
		return nil
	}
	key := Address(from.Network, to)
	if !c.knows(t, key) {
		return []Key{key}
	}
	var missing []Key
	for _, gateway := range gatewaysTo(t, from, to) {
		missing = c.missingGateway(t, from, gateway, missing)
	}
	return missing
}

// gatewaysTo returns the waypoints and gateways over which a connection may go.
func gatewaysTo(t *state.Table, from *state.Workload, to netip.Addr) []*state.Gateway {
	w, svc := t.Find(from.Network, to, from.Namespace)
	var list []*state.Gateway
	if w != nil {
		list = append(list, w.Waypoint, w.NetworkGateway)
	}
	if svc == nil {
		return list
	}
	list = append(list, svc.Waypoint)
	for i := range svc.WeightedWaypoints {
		list = append(list, &svc.WeightedWaypoints[i].Gateway)
	}
	return append(list, remoteGateways(t, from, svc)...)
}

// remoteGateways returns those of the service's endpoints in other networks. Most of them are the same, one after the other.
func remoteGateways(t *state.Table, from *state.Workload, svc *state.Service) (list []*state.Gateway) {
	for _, e := range t.Endpoints(svc) {
		gateway := e.Workload.NetworkGateway
		if gateway == nil || e.Workload.Network == from.Network {
			continue
		}
		if n := len(list); n == 0 || *list[n-1] != *gateway {
			list = append(list, gateway)
		}
	}
	return list
}

// missingGateway adds a gateway that isn't known, or, where it is in another network, the gateway to that.
func (c *Cache) missingGateway(t *state.Table, from *state.Workload, gateway *state.Gateway, missing []Key) []Key {
	if gateway == nil {
		return missing
	}
	key := gatewayKey(gateway)
	if !c.knows(t, key) {
		return append(missing, key)
	}
	for _, next := range behind(t, from, gateway) {
		if next := gatewayKey(next); !c.knows(t, next) {
			missing = append(missing, next)
		}
	}
	return missing
}

func gatewayKey(gateway *state.Gateway) Key {
	if gateway.Address.Addr.IsValid() {
		return Address(gateway.Address.Network, gateway.Address.Addr)
	}
	return Host(gateway.Host)
}

// behind returns the gateways of whatever a gateway resolves to.
func behind(t *state.Table, from *state.Workload, gateway *state.Gateway) []*state.Gateway {
	w, svc := t.Behind(gateway, from.Namespace)
	switch {
	case svc != nil:
		return remoteGateways(t, from, svc)
	case w != nil && w.NetworkGateway != nil && w.Network != from.Network:
		return []*state.Gateway{w.NetworkGateway}
	}
	return nil
}
