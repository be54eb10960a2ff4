package inbound

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// describe says for log and metrics what is known of an arrival.
func (h *Handler) describe(a arrival) telemetry.Connection {
	table := h.cfg.Table()
	c := telemetry.Connection{
		Reporter:    telemetry.Destination,
		Source:      h.source(table, a),
		Destination: describe.Peer(a.self),
		MTLS:        a.tunnel,
		Src:         a.client,
		Dst:         a.accepted,
		HBONEDst:    a.request.Authority.String(),
		Trace:       a.request.Trace,
	}
	if svc := guessService(table, a); svc != nil {
		c.Service, c.ServiceNamespace, c.ServiceName = svc.Hostname, svc.Namespace, svc.Name
	}
	return c
}

// source describes the client: what the control plane says about its address wins over what it says of itself, and its
// identity is the proven one. Of a client that came from another network the address here is a gateway's.
func (h *Handler) source(table *state.Table, a arrival) telemetry.Peer {
	var known *state.Workload
	if from := a.request.Network; from == "" || strings.EqualFold(from, h.cfg.Network) {
		known = table.WorkloadAt(h.cfg.Network, a.client.Addr())
	}
	return describe.Client(known, a.request.Baggage, a.peer)
}

// guessService returns the service that the client probably meant: the one it says, if the pod is behind it, else the
// first by name that has the port.
func guessService(table *state.Table, a arrival) *state.Service {
	if a.self == nil {
		return nil
	}
	var byPort *state.Service
	for _, of := range a.self.Services {
		namespace, host, _ := strings.Cut(of.Service, "/")
		svc := table.Service(namespace, host)
		if svc == nil {
			continue
		}
		if svc.Hostname == a.request.Forwarded.Host {
			return svc
		}
		if byPort == nil && hasTarget(svc, of.Ports, a.target.Port()) {
			byPort = svc
		}
	}
	return byPort
}

func hasTarget(svc *state.Service, endpoint []state.Port, port uint16) bool {
	is := func(p state.Port) bool { return p.Target == port }
	return slices.ContainsFunc(svc.Ports, is) || slices.ContainsFunc(endpoint, is)
}
