package state

import (
	"net/netip"
	"slices"
)

// Gateway refers to a waypoint or a network gateway: either Address or Host is set.
type Gateway struct {
	Address NetworkAddress // Address.Addr is invalid if Host names the gateway
	Host    Name           // a service, else a workload, with this hostname
	Port    uint16         // where it takes HBONE
}

// String returns "network/address" or "namespace/hostname", which is how the local file writes it.
func (g *Gateway) String() string {
	if g.Address.Addr.IsValid() {
		return g.Address.Network + "/" + g.Address.Addr.String()
	}
	return g.Host.String()
}

// Behind returns what a gateway's reference means to clients in a namespace: a service, else a workload, else neither.
func (t *Table) Behind(gw *Gateway, clientNamespace string) (*Workload, *Service) {
	if gw.Address.Addr.IsValid() {
		w, svc := t.Find(gw.Address.Network, gw.Address.Addr, clientNamespace)
		if svc != nil {
			return nil, svc
		}
		return w, nil
	}
	if svc := t.Service(gw.Host.Namespace, gw.Host.Name); svc != nil {
		return nil, svc
	}
	return t.WorkloadByHost(gw.Host.Namespace, gw.Host.Name), nil
}

// Stands tells that a workload, which is reached at one of its own addresses, stands for the gateway: as an endpoint of the service that the
// gateway resolves to, or by the address.
func (t *Table) Stands(gw *Gateway, self *Workload, local netip.Addr) bool {
	if gw == nil {
		return false
	}
	w, svc := t.Behind(gw, self.Namespace)
	if svc != nil {
		_, serves := t.Endpoint(svc, self)
		return serves
	}
	return w != nil && w.Network == self.Network && slices.Contains(w.Addresses, local)
}

// IsWaypoint tells that the workload stands for the service's waypoint, or one of several. Their weights don't matter: they may have been
// others when the client chose.
func (t *Table) IsWaypoint(svc *Service, self *Workload, local netip.Addr) bool {
	for i := range svc.WeightedWaypoints {
		if t.Stands(&svc.WeightedWaypoints[i].Gateway, self, local) {
			return true
		}
	}
	return t.Stands(svc.Waypoint, self, local)
}
