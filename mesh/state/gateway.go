package state

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
