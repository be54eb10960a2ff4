package state

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Workload is one running instance: a pod, a VM, an external endpoint. It is immutable once it is in a Table.
type Workload struct {
	// UID names the workload in the control plane, as in "Kubernetes//Pod/shop/cart-1".
	UID string

	Name              string
	Namespace         string
	ServiceAccount    string
	TrustDomain       string
	Network           string
	Node              string
	Hostname          string // resolved by DNS where there is no address
	CanonicalName     string
	CanonicalRevision string
	WorkloadName      string
	ClusterID         string

	Type         WorkloadType
	Addresses    []netip.Addr // never IPv4 in IPv6
	Protocol     Protocol
	NativeTunnel bool // speaks HBONE itself, so its own proxy must not
	HostNetwork  bool // its addresses are its node's and name no workload
	Healthy      bool
	Capacity     uint32 // weight in load balancing
	Locality     Locality

	// Identity is what the workload has to prove. It is zero if trust domain, namespace and service account make no
	// identity; then nobody can prove to be the workload.
	Identity identity.Workload

	Waypoint       *Gateway
	NetworkGateway *Gateway
	AppTunnel      *AppTunnel

	// Policies lists the policies with ScopeSelector that select the workload, as "namespace/name", each once.
	Policies []string
	// Services are those that the workload is an endpoint of, ordered by name.
	Services []ServicePorts
}

// ServicePorts are the ports that a workload serves for a service.
type ServicePorts struct {
	Service string // "namespace/hostname"
	Ports   []Port
}

// WorkloadType is the kind of thing that made the workload.
type WorkloadType uint8

// The kinds of owners, numbered as in workload.proto.
const (
	Deployment WorkloadType = iota
	CronJob
	Pod
	Job
)

// String returns the type as baggage writes it.
func (t WorkloadType) String() string {
	switch t {
	case Deployment:
		return "deployment"
	case CronJob:
		return "cronjob"
	case Job:
		return "job"
	default:
		return "pod"
	}
}

// Protocol is how a workload takes its connections.
type Protocol uint8

// TCP is plain text, HBONE is a tunnel to port 15008.
const (
	TCP Protocol = iota
	HBONE
)

// String returns the name that the local file and config_dump use.
func (p Protocol) String() string {
	if p == HBONE {
		return "HBONE"
	}
	return "TCP"
}

// Locality is where a workload runs, from the widest to the narrowest.
type Locality struct{ Region, Zone, Subzone string }

// AppTunnel is how traffic is handed to a workload that is itself a proxy.
type AppTunnel struct {
	PROXY bool   // each connection begins with a PROXY protocol version 2 header
	Port  uint16 // 0 leaves the port as it is
}

// Port maps a port of a service to one of a workload.
type Port struct {
	Service uint16
	Target  uint16 // 0 in a Service means that each workload maps the port itself
	// Protocol is what clients speak, of a Service only.
	Protocol AppProtocol
}

// AppProtocol is what clients speak on a port of a service.
type AppProtocol uint8

// The protocols, numbered as in workload.proto. Of UnknownProtocol nothing is known but what clients send.
const (
	UnknownProtocol AppProtocol = iota
	HTTP1
	HTTP2
	GRPC
	OpaqueTCP
	OpaqueTLS
)

// NetworkAddress is an address in a network: the same address may mean something else in another one.
type NetworkAddress struct {
	Network string
	Addr    netip.Addr
}

// Name is a namespace and a name or hostname in it.
type Name struct{ Namespace, Name string }

// String returns "namespace/name", which is how resources are named on the wire.
func (n Name) String() string { return n.Namespace + "/" + n.Name }
