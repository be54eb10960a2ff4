package outbound

import (
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// describe says for log and metrics what is known of a connection.
func describe(client capture.Client, from *state.Workload, r route) telemetry.Connection {
	c := telemetry.Connection{
		Reporter:    telemetry.Source,
		Source:      peer(from),
		Destination: peer(r.Workload),
		MTLS:        r.Tunnel,
		Src:         client.AddrPort,
		Dst:         r.Addr,
		HBONEDst:    r.Authority.String(),
	}
	if r.Service != nil {
		c.Service, c.ServiceNamespace, c.ServiceName = r.Service.Hostname, r.Service.Namespace, r.Service.Name
	}
	return c
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
