package model

import (
	"net/netip"
	"slices"
	"time"
)

// ServiceEntry is a service that isn't Kubernetes': one for each of its hosts.
type ServiceEntry struct {
	Namespace, Name string
	Generation      int64
	Created         time.Time
	Revision        string
	// Binding is what its own labels want; nil if nothing.
	Binding *Binding
	// Hosts are in lower case, each once. One may begin with "*.".
	Hosts []string
	// VIPs are addresses and ranges of addresses; without any, Allocated has those that were found for it.
	VIPs      []netip.Prefix
	Allocated []AllocatedAddress
	// Unallocated says that no addresses are to be found for it.
	Unallocated bool
	Ports       []ServicePort
	// Endpoints are where it runs, beside the workloads of its namespace that Selector chooses if Selected.
	Resolution Resolution
	Endpoints  []EntryEndpoint
	Selected   bool
	Selector   Labels
	SANs       []string
	// TrafficDistribution is its own wish, of its annotations.
	TrafficDistribution string
	// Exported says that it asks to be seen in some namespaces only, which Istio's ambient mode doesn't heed.
	Exported bool
}

// AllocatedAddress is an address for one host of a ServiceEntry.
type AllocatedAddress struct {
	Host string
	IP   netip.Addr
}

// Resolution is how the endpoints of a ServiceEntry are found.
type Resolution string

// The ways: at the address that the client dialled, at the endpoints' addresses, by asking DNS.
const (
	ResolveNone       Resolution = "NONE"
	ResolveStatic     Resolution = "STATIC"
	ResolveDNS        Resolution = "DNS"
	ResolveRoundRobin Resolution = "DNS_ROUND_ROBIN"
	ResolveDynamic    Resolution = "DYNAMIC_DNS"
)

// EntryEndpoint is one place where something outside of Kubernetes runs.
type EntryEndpoint struct {
	// IP is where it is, else Host is a name that DNS knows; neither is set if only the way into Network is known.
	IP   netip.Addr
	Host string
	// Network is empty for the cluster's own.
	Network        string
	Labels         Labels
	Ports          []NamedPort // by the names of the service's ports
	ServiceAccount string
	Locality       Locality
	Weight         uint32 // 0 is as good as 1
}

// WorkloadEntry is a workload outside of Kubernetes. Its labels are those of its spec over those of its metadata.
type WorkloadEntry struct {
	Namespace, Name string
	Generation      int64
	Revision        string
	Binding         *Binding
	EntryEndpoint
}

// Key names it.
func (e *ServiceEntry) Key() Key { return Key{KindServiceEntry, Name{e.Namespace, e.Name}} }

// Key names it.
func (e *WorkloadEntry) Key() Key { return Key{KindWorkloadEntry, Name{e.Namespace, e.Name}} }

func (e *ServiceEntry) selector() (Labels, bool) { return e.Selector, e.Selected }

func (e *WorkloadEntry) labels() Labels { return e.Labels }

func (e *ServiceEntry) revision() string { return e.Revision }

func (e *WorkloadEntry) revision() string { return e.Revision }

// hasEndpoint tells whether one of its own endpoints has all labels of the selector. One that is only known by its host has
// none.
func (e *ServiceEntry) hasEndpoint(selector Labels) bool {
	if selector.Empty() {
		return !e.Selected
	}
	return slices.ContainsFunc(e.Endpoints, func(endpoint EntryEndpoint) bool { return selector.Selects(endpoint.Labels) })
}

// networks yields the networks of its endpoints that aren't the cluster's own; one may come twice.
func (e *ServiceEntry) networks(yield func(string) bool) {
	for i := range e.Endpoints {
		if network := e.Endpoints[i].Network; network != "" && !yield(network) {
			return
		}
	}
}
