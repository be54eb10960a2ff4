// Package arrival finds out what a connection that came to a waypoint is for: a port of a service that is bound to it, or a workload that is.
package arrival

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// Why a connection can't be for this waypoint.
var (
	// ErrStranger: it is for something that doesn't go through this waypoint.
	ErrStranger = errors.New("it is for nothing that is bound to this waypoint")
	// ErrNoPort: its service has no such port.
	ErrNoPort = errors.New("the service has no such port")
)

// Destination is what a connection is for.
type Destination struct {
	Service  *state.Service  // nil if a workload's own address was dialled
	Workload *state.Workload // of that address
	Port     uint16          // of the service, or of the workload
	Dialled  netip.Addr      // the zero Addr if a hostname was
	Protocol state.AppProtocol
}

// String names it as people do.
func (d Destination) String() string {
	if d.Service != nil {
		return fmt.Sprintf("%s:%d", d.Service.Key(), d.Port)
	}
	return netip.AddrPortFrom(d.Dialled, d.Port).String()
}

// Find says what the authority of a CONNECT means that arrived at the waypoint self, at its address local. Only what is bound to the
// waypoint means anything: else a client could reach through it what its policies don't cover.
func Find(t *state.Table, self *state.Workload, local netip.Addr, authority hbone.Authority) (Destination, error) {
	d := Destination{Port: authority.Port()}
	asked, isAddr := authority.Addr()
	if d.Dialled = asked.Addr(); isAddr {
		d.byAddress(t, self, local)
	} else {
		d.byHost(t, self, local, authority.Host())
	}
	switch {
	case d.Service == nil && d.Workload == nil:
		return d, fmt.Errorf("%s: %w", authority, ErrStranger)
	case d.Service == nil:
		return d, nil
	}
	port, ok := d.Service.Port(d.Port)
	if !ok {
		return d, fmt.Errorf("%s: %w", d, ErrNoPort)
	}
	d.Protocol = port.Protocol
	return d, nil
}

// byAddress finds the service with that virtual address, else the workload. A range of virtual addresses yields to the workloads in it.
func (d *Destination) byAddress(t *state.Table, self *state.Workload, local netip.Addr) {
	w := t.WorkloadAt(self.Network, d.Dialled)
	for svc := range t.ServicesAt(self.Network, d.Dialled) {
		if w != nil && !svc.HasVIP(self.Network, d.Dialled) {
			continue
		}
		if t.IsWaypoint(svc, self, local) {
			d.Service = svc
			return
		}
	}
	if w != nil && t.Stands(w.Waypoint, self, local) {
		d.Workload = w
	}
}

// byHost finds the service of that name: one of the waypoint's own namespace, else the canonical one, else the first.
func (d *Destination) byHost(t *state.Table, self *state.Workload, local netip.Addr, host string) {
	for _, svc := range t.ServicesByHost(host) {
		if !t.IsWaypoint(svc, self, local) {
			continue
		}
		if d.Service == nil || svc.Namespace == self.Namespace || svc.Canonical && d.Service.Namespace != self.Namespace {
			d.Service = svc
		}
	}
}
