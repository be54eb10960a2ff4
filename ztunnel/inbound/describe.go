package inbound

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// describe says for log and metrics what is known of an arrival.
func (h *Handler) describe(a arrival) telemetry.Connection {
	table := h.cfg.Table()
	c := telemetry.Connection{
		Reporter:    telemetry.Destination,
		Source:      h.source(table, a),
		Destination: peer(a.self),
		MTLS:        a.tunnel,
		Src:         a.client,
		Dst:         a.accepted,
		HBONEDst:    a.request.Authority.String(),
	}
	if svc := guessService(table, a); svc != nil {
		c.Service, c.ServiceNamespace, c.ServiceName = svc.Hostname, svc.Namespace, svc.Name
	}
	return c
}

// source describes the client: what the control plane says about its address wins over what it says of itself, and its
// identity is the proven one.
func (h *Handler) source(table *state.Table, a arrival) telemetry.Peer {
	p := peer(table.WorkloadAt(h.cfg.Network, a.client.Addr()))
	for _, gap := range []struct {
		field *string
		told  string
	}{
		{&p.Workload, a.request.Baggage.WorkloadName},
		{&p.CanonicalName, a.request.Baggage.Service},
		{&p.CanonicalRevision, a.request.Baggage.Revision},
		{&p.Namespace, a.request.Baggage.Namespace},
		{&p.Cluster, a.request.Baggage.Cluster},
		{&p.Region, a.request.Baggage.Region},
		{&p.Zone, a.request.Baggage.Zone},
	} {
		if *gap.field == "" {
			*gap.field = gap.told
		}
	}
	p.Identity = a.peer
	return p
}

// guessService returns the service that the client probably meant: the one it says, if the pod is behind it, else the
// first by name that has the port.
func guessService(table *state.Table, a arrival) *state.Service {
	if a.self == nil {
		return nil
	}
	var byPort *state.Service
	names := make([]string, 0, len(a.self.Services))
	for name := range a.self.Services {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		namespace, host, _ := strings.Cut(name, "/")
		svc := table.Service(namespace, host)
		if svc == nil {
			continue
		}
		if svc.Hostname == a.request.Forwarded.Host {
			return svc
		}
		if byPort == nil && hasTarget(svc, a.self.Services[name], a.target.Port()) {
			byPort = svc
		}
	}
	return byPort
}

func hasTarget(svc *state.Service, endpoint []state.Port, port uint16) bool {
	is := func(p state.Port) bool { return p.Target == port }
	return slices.ContainsFunc(svc.Ports, is) || slices.ContainsFunc(endpoint, is)
}

// peer is a workload as telemetry sees it; nil is an unknown one.
func peer(w *state.Workload) telemetry.Peer {
	if w == nil {
		return telemetry.Peer{}
	}
	return telemetry.Peer{
		Pod: w.Name, Workload: w.WorkloadName, CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		Namespace: w.Namespace, Cluster: w.ClusterID, Region: w.Locality.Region, Zone: w.Locality.Zone, Identity: w.Identity,
	}
}

// baggage is a workload as we tell the peer about it.
func baggage(w *state.Workload) hbone.Baggage {
	return hbone.Baggage{
		Cluster: w.ClusterID, Namespace: w.Namespace, WorkloadType: w.Type.String(), WorkloadName: w.WorkloadName,
		Service: w.CanonicalName, Revision: w.CanonicalRevision, Region: w.Locality.Region, Zone: w.Locality.Zone,
	}
}
