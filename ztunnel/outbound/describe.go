package outbound

import (
	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// record says for log and metrics what is known of a connection.
func record(client capture.Client, from *state.Workload, r Route) telemetry.Connection {
	c := telemetry.Connection{
		Reporter:    telemetry.Source,
		Source:      describe.Peer(from),
		Destination: describe.Peer(r.Workload),
		MTLS:        r.Kind.Tunnelled(),
		Src:         client.AddrPort,
		Dst:         r.Addr,
		HBONEDst:    r.Authority.String(),
	}
	if r.Service != nil {
		c.Service, c.ServiceNamespace, c.ServiceName = r.Service.Hostname, r.Service.Namespace, r.Service.Name
	}
	return c
}
