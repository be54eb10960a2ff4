// Package describe says who a workload is, to log and metrics and to the peer of a tunnel, and why it could not be reached.
package describe

import (
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// Peer is a workload as telemetry sees it; nil is an unknown one.
func Peer(w *state.Workload) telemetry.Peer {
	if w == nil {
		return telemetry.Peer{}
	}
	return telemetry.Peer{
		Pod: w.Name, Workload: w.WorkloadName, CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		Namespace: w.Namespace, Cluster: w.ClusterID, Region: w.Locality.Region, Zone: w.Locality.Zone, Identity: w.Identity,
	}
}

// Baggage is a workload as we tell the peer about it.
func Baggage(w *state.Workload) hbone.Baggage {
	return hbone.Baggage{
		Cluster: w.ClusterID, Namespace: w.Namespace, WorkloadType: w.Type.String(), WorkloadName: w.WorkloadName,
		Service: w.CanonicalName, Revision: w.CanonicalRevision, Region: w.Locality.Region, Zone: w.Locality.Zone,
	}
}

// Told is a peer as it describes itself, with the identity that it has proven.
func Told(b hbone.Baggage, id identity.Workload) telemetry.Peer {
	return telemetry.Peer{
		Workload: b.WorkloadName, CanonicalName: b.Service, CanonicalRevision: b.Revision, Namespace: b.Namespace,
		Cluster: b.Cluster, Region: b.Region, Zone: b.Zone, Identity: id,
	}
}

// Trace begins the trace of a connection, marked as sampled if it is to have spans.
func Trace(m *telemetry.Metrics) trace.Context {
	c := trace.New()
	if m.Sampled(c) {
		return c.WithSampled()
	}
	return c
}

// Client is the one who came through a tunnel: what the control plane says about it wins over what it says of itself, and its identity is the
// proven one. known may be nil.
func Client(known *state.Workload, told hbone.Baggage, id identity.Workload) telemetry.Peer {
	p := Peer(known)
	for _, gap := range []struct {
		field *string
		told  string
	}{
		{&p.Workload, told.WorkloadName},
		{&p.CanonicalName, told.Service},
		{&p.CanonicalRevision, told.Revision},
		{&p.Namespace, told.Namespace},
		{&p.Cluster, told.Cluster},
		{&p.Region, told.Region},
		{&p.Zone, told.Zone},
	} {
		if *gap.field == "" {
			*gap.field = gap.told
		}
	}
	p.Identity = id
	return p
}
