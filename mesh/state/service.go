package state

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Service is a named set of endpoints with virtual addresses. It is immutable once it is in a Table.
type Service struct {
	Name      string
	Namespace string
	Hostname  string

	VIPs  []NetworkAddress
	CIDRs []NetworkPrefix // ranges of virtual addresses
	Ports []Port

	// SANs are identities accepted from the endpoints beside their own. Alternative names which are no workload
	// identities can't be proved in the mesh and are left out.
	SANs []identity.Workload

	Waypoint          *Gateway
	WeightedWaypoints []WeightedWaypoint // preferred to Waypoint if any weight isn't 0
	LoadBalancing     LoadBalancing
	IPFamilies        IPFamilies
	Canonical         bool // to prefer when several namespaces define the hostname
	Visibility        Visibility
}

// Key returns the namespace and hostname, by which the service is named.
func (s *Service) Key() Name { return Name{s.Namespace, s.Hostname} }

// HasVIP tells whether the address is a virtual one of the service, and not just within one of its ranges.
func (s *Service) HasVIP(network string, ip netip.Addr) bool {
	return slices.Contains(s.VIPs, NetworkAddress{network, ip.Unmap()})
}

// VisibleFrom tells whether clients in the namespace may see the service.
func (s *Service) VisibleFrom(namespace string) bool {
	return s.Visibility == Public || s.Namespace == namespace
}

// Port returns the service's port of that number.
func (s *Service) Port(number uint16) (Port, bool) { return FindPort(s.Ports, number) }

// FindPort returns the mapping of a service's port among those of a service or an endpoint.
func FindPort(ports []Port, number uint16) (Port, bool) {
	for _, p := range ports {
		if p.Service == number {
			return p, true
		}
	}
	return Port{}, false
}

// NetworkPrefix is a range of addresses in a network.
type NetworkPrefix struct {
	Network string
	Prefix  netip.Prefix // masked
}

// WeightedWaypoint is one of several waypoints of a service.
type WeightedWaypoint struct {
	Gateway Gateway
	Weight  uint32
}

// LoadBalancing is how an endpoint of a service is chosen.
type LoadBalancing struct {
	Mode        Mode
	Preferences []Preference // most important first
	AnyHealth   bool         // unhealthy workloads are endpoints too
}

// Mode is what the preferences mean.
type Mode uint8

// The modes of load balancing, numbered as in workload.proto.
const (
	// ModeAny ignores the preferences.
	ModeAny Mode = iota
	// ModeStrict takes only endpoints that match all preferences.
	ModeStrict
	// ModeFailover takes the endpoints that match most preferences in order.
	ModeFailover
	// ModePassthrough takes the original destination, whatever it is.
	ModePassthrough
)

// Preference is an attribute that an endpoint should have in common with the client.
type Preference uint8

// The attributes, numbered as in workload.proto.
const (
	PreferRegion Preference = iota + 1
	PreferZone
	PreferSubzone
	PreferNode
	PreferCluster
	PreferNetwork
)

// IPFamilies restricts the addresses of a service's endpoints.
type IPFamilies uint8

// The families, numbered as in workload.proto.
const (
	AutomaticFamilies IPFamilies = iota
	IPv4Only
	IPv6Only
	DualStack
)

// Permit tells whether an address is of a permitted family.
func (f IPFamilies) Permit(addr netip.Addr) bool {
	switch f {
	case IPv4Only:
		return addr.Is4()
	case IPv6Only:
		return addr.Is6()
	default:
		return true
	}
}

// Visibility is who may see a service.
type Visibility uint8

// Public services are seen by everybody, NamespaceOnly ones only from their own namespace.
const (
	Public Visibility = iota
	NamespaceOnly
)
