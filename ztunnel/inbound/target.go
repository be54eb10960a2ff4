package inbound

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// Why an arrival can't be for this pod.
var (
	errMismatch    = errors.New("ip mismatch: the connection is for somebody else's address")
	errNoPort      = errors.New("the destination names no port of this pod")
	errIllegalPort = errors.New("the destination is one of ztunnel's own ports")
	errAppTunnel   = errors.New("the pod takes connections through an application tunnel, which this ztunnel can't do yet")
)

// validate checks that a tunnelled connection which arrived at local is for this pod. A hostname is checked when it is
// resolved. An address is the pod's own, or one of whatever the pod is the waypoint of.
func validate(t *state.Table, self *state.Workload, local netip.Addr, authority hbone.Authority) error {
	asked, isAddr := authority.Addr()
	if !isAddr || asked.Addr() == local || self.AppTunnel != nil {
		return nil
	}
	w, svc := t.Find(self.Network, asked.Addr(), self.Namespace)
	switch {
	case svc != nil && isGateway(t, svc.Waypoint, self, local):
		return nil
	case svc != nil:
		for i := range svc.WeightedWaypoints {
			if isGateway(t, &svc.WeightedWaypoints[i].Gateway, self, local) {
				return nil
			}
		}
	case w != nil && isGateway(t, w.Waypoint, self, local):
		return nil
	}
	return fmt.Errorf("%w: %s arrived at %s", errMismatch, authority, local)
}

// isGateway tells that the gateway resolves to this pod: to a service that it is an endpoint of, or to its own address.
func isGateway(t *state.Table, gw *state.Gateway, self *state.Workload, local netip.Addr) bool {
	if gw == nil {
		return false
	}
	var w *state.Workload
	var svc *state.Service
	if gw.Address.Addr.IsValid() {
		w, svc = t.Find(gw.Address.Network, gw.Address.Addr, self.Namespace)
	} else if svc = t.Service(gw.Host.Namespace, gw.Host.Name); svc == nil {
		w = t.WorkloadByHost(gw.Host.Namespace, gw.Host.Name)
	}
	if svc != nil {
		_, serves := t.Endpoint(svc, self)
		return serves
	}
	if w == nil {
		return false
	}
	for _, addr := range w.Addresses {
		if addr == local {
			return true
		}
	}
	return false
}

// resolve returns what to dial: always an address of this very pod, whatever the authority says, and its port.
func resolve(t *state.Table, self *state.Workload, local netip.Addr, authority hbone.Authority) (netip.AddrPort, error) {
	port := authority.Port()
	if _, isAddr := authority.Addr(); !isAddr {
		var err error
		if port, err = portOf(t, self, authority); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if self.AppTunnel != nil {
		return netip.AddrPort{}, errAppTunnel
	}
	if capture.Illegal(port) {
		return netip.AddrPort{}, fmt.Errorf("%w: %d", errIllegalPort, port)
	}
	return netip.AddrPortFrom(local, port), nil
}

// portOf maps the port of a service, named by its host, to the pod's own.
func portOf(t *state.Table, self *state.Workload, authority hbone.Authority) (uint16, error) {
	svc := bestService(t, self.Namespace, authority.Host())
	if svc == nil {
		return 0, fmt.Errorf("%w: nobody knows the host %s", errNoPort, authority.Host())
	}
	if endpoint, serves := t.Endpoint(svc, self); serves {
		if port, ok := state.FindPort(endpoint.Ports, authority.Port()); ok && port.Target != 0 {
			return port.Target, nil
		}
	}
	if port, ok := svc.Port(authority.Port()); ok && port.Target != 0 {
		return port.Target, nil
	}
	return 0, fmt.Errorf("%w: %s", errNoPort, authority)
}

// bestService returns the service of the hostname in our namespace, else the canonical one, else the first.
func bestService(t *state.Table, namespace, host string) *state.Service {
	if svc := t.Service(namespace, host); svc != nil {
		return svc
	}
	services := t.ServicesByHost(host)
	for _, svc := range services {
		if svc.Canonical {
			return svc
		}
	}
	if len(services) == 0 {
		return nil
	}
	return services[0]
}
