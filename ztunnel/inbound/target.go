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
	errNoVIP       = errors.New("the destination has no address to tell the application")
)

// validate checks that a tunnelled connection which arrived at local is for this pod. A hostname is checked when it is
// resolved. An address is the pod's own, or one of whatever the pod is the waypoint of, which may be in a
// namespace that sees other services than the pod's own.
func validate(t *state.Table, self *state.Workload, local netip.Addr, authority hbone.Authority) error {
	asked, isAddr := authority.Addr()
	if !isAddr || asked.Addr() == local || self.AppTunnel != nil {
		return nil
	}
	w := t.WorkloadAt(self.Network, asked.Addr())
	if w != nil && t.Stands(w.Waypoint, self, local) {
		return nil
	}
	for svc := range t.ServicesAt(self.Network, asked.Addr()) {
		if w != nil && !svc.HasVIP(self.Network, asked.Addr()) {
			continue // a range yields to the workloads in it, as it does for clients
		}
		if t.IsWaypoint(svc, self, local) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s arrived at %s", errMismatch, authority, local)
}

// target is what an arrival leads to.
type target struct {
	netip.AddrPort                // the pod's own address, and the port that policies are about
	dial           netip.AddrPort // where the application is
	proxied        netip.AddrPort // valid if a PROXY header must tell this as the destination
}

// resolve returns what to dial: always this very pod, whatever the authority says.
func (h *Handler) resolve(t *state.Table, self *state.Workload, local netip.Addr, authority hbone.Authority) (target, error) {
	port, svc := authority.Port(), (*state.Service)(nil)
	if _, isAddr := authority.Addr(); !isAddr {
		svc = bestService(t, self.Namespace, authority.Host())
		if svc == nil {
			return target{}, fmt.Errorf("%w: nobody knows the host %s", errNoPort, authority.Host())
		}
	}
	tunnel := self.AppTunnel
	switch {
	case tunnel != nil && tunnel.Port != 0:
		port = tunnel.Port
	case svc != nil:
		var err error
		if port, err = portOf(t, self, svc, authority); err != nil {
			return target{}, err
		}
	}
	if capture.Illegal(port, h.cfg.SOCKS) {
		return target{}, fmt.Errorf("%w: %d", errIllegalPort, port)
	}
	to := target{AddrPort: netip.AddrPortFrom(local, port), dial: netip.AddrPortFrom(local, port)}
	if tunnel == nil || !tunnel.PROXY {
		return to, nil
	}
	return h.proxied(to, svc, authority)
}

// proxied completes a target that is told by a PROXY header: mostly it listens on loopback only.
func (h *Handler) proxied(to target, svc *state.Service, authority hbone.Authority) (target, error) {
	if h.cfg.Loopback {
		loopback := netip.IPv6Loopback()
		if to.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		to.dial = netip.AddrPortFrom(loopback, to.Port())
	}
	if to.proxied, _ = authority.Addr(); svc == nil {
		return to, nil
	}
	vip, ok := bestVIP(svc, h.cfg.Network)
	if !ok {
		return target{}, fmt.Errorf("%w: %s", errNoVIP, authority)
	}
	to.proxied = netip.AddrPortFrom(vip, authority.Port())
	return to, nil
}

// bestVIP returns a virtual address of our network if there is one, and IPv4 rather than IPv6.
func bestVIP(svc *state.Service, network string) (netip.Addr, bool) {
	var best state.NetworkAddress
	rank := func(vip state.NetworkAddress) int {
		r := 1
		if vip.Network == network {
			r += 2
		}
		if vip.Addr.Is4() {
			r++
		}
		return r
	}
	for _, vip := range svc.VIPs {
		if !best.Addr.IsValid() || rank(vip) > rank(best) {
			best = vip
		}
	}
	return best.Addr, best.Addr.IsValid()
}

// portOf maps the port of a service to the pod's own.
func portOf(t *state.Table, self *state.Workload, svc *state.Service, authority hbone.Authority) (uint16, error) {
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
