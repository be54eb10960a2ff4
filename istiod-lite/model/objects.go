package model

import (
	"net/netip"
	"time"
)

// Namespace is what is said of all objects of a namespace.
type Namespace struct {
	Name   string
	Labels Labels
	// Binding is for the objects that don't say which waypoint they want; nil if that is none.
	Binding *Binding
	// TrafficDistribution is for the services that have none of their own.
	TrafficDistribution string
}

// Key names it.
func (n *Namespace) Key() Key { return Key{KindNamespace, Name{Name: n.Name}} }

// Node is a machine.
type Node struct {
	Name     string
	Locality Locality
}

// Locality is where something runs, from the widest to the narrowest.
type Locality struct{ Region, Zone, Subzone string }

// Key names it.
func (n *Node) Key() Key { return Key{KindNode, Name{Name: n.Name}} }

// Pod is a running instance of an app.
type Pod struct {
	Namespace, Name, UID string
	Labels               Labels
	Node, ServiceAccount string
	IPs                  []netip.Addr
	// Redirected says that the node's agent captures it, by the annotation that the agent writes.
	Redirected bool
	// HostNetwork says that the addresses are the node's.
	HostNetwork bool
	// Ended says that the pod succeeded or failed for good.
	Ended bool
	// Ready says that it takes traffic: the condition is true and nobody deletes it.
	Ready bool
	// Ports are the named TCP ports of its containers.
	Ports []NamedPort
	Owner Owner
}

// NamedPort is a port that has a name, unique within its list.
type NamedPort struct {
	Name string
	Port uint16
}

// PortNamed returns the port of that name, or 0.
func PortNamed(ports []NamedPort, name string) uint16 {
	for _, port := range ports {
		if port.Name == name {
			return port.Port
		}
	}
	return 0
}

// Owner is the object that made a pod; empty for a pod made by hand.
type Owner struct{ Kind, Name string }

// Key names it.
func (p *Pod) Key() Key { return Key{KindPod, Name{p.Namespace, p.Name}} }

func (p *Pod) labels() Labels { return p.Labels }

// Binding is the waypoint that the pod's own labels want, or nil.
func (p *Pod) Binding() *Binding { return BindingOf(p.Namespace, p.Labels.Get, "") }

// Gateway is the Gateway that the pod is an instance of; its name is empty if the pod is none.
func (p *Pod) Gateway() Name { return Name{p.Namespace, p.Labels.Get(GatewayNameLabel)} }

// GatewayNameLabel says of a pod, and of the other objects made for a Gateway, of which.
const GatewayNameLabel = "gateway.networking.k8s.io/gateway-name"

// gatewayLabels select the instances of a gateway of that name.
func gatewayLabels(name string) Labels { return LabelsOf(map[string]string{GatewayNameLabel: name}) }

// Service is a name and a virtual address for pods.
type Service struct {
	Namespace, Name string
	Generation      int64
	Created         time.Time
	// Binding is what its own labels want; nil if nothing.
	Binding    *Binding
	Selector   Labels
	VIPs       []netip.Addr
	Ports      []ServicePort
	IPFamilies []string // IPv4, IPv6
	// TrafficDistribution is its own wish, of its spec or its annotations.
	TrafficDistribution string
	// NodeLocal says that only endpoints of the client's node are used.
	NodeLocal bool
	// PublishNotReady says that endpoints count whether ready or not.
	PublishNotReady bool
}

// ServicePort is a TCP port of a service.
type ServicePort struct {
	Name string
	Port uint16
	// Target is the port of the pod; 0 if TargetName names it.
	Target     uint16
	TargetName string
	// AppProtocol is as written, or empty. Of a ServiceEntry it is the protocol.
	AppProtocol string
}

// Key names it.
func (s *Service) Key() Key { return Key{KindService, Name{s.Namespace, s.Name}} }

// A service without a selector selects nothing; its endpoints are written by hand.
func (s *Service) selector() (Labels, bool) { return s.Selector, !s.Selector.Empty() }

// EndpointSlice is a part of a service's endpoints.
type EndpointSlice struct {
	Namespace, Name string
	// Service is the service's name, in the same namespace; empty if the slice belongs to none.
	Service   string
	Ports     []NamedPort
	Endpoints []Endpoint
}

// Endpoint is one place where a service runs.
type Endpoint struct {
	Addresses  []netip.Addr
	Ready      bool
	Node, Zone string
	// Pod is set where the endpoint is one; PodUID may be empty.
	Pod    Name
	PodUID string
}

// IsPod tells whether the endpoint stands for a pod, which is a workload of its own.
func (e *Endpoint) IsPod() bool { return e.Pod != Name{} }

// Key names it.
func (s *EndpointSlice) Key() Key { return Key{KindEndpointSlice, Name{s.Namespace, s.Name}} }

// Enrolment says which pods of a node are captured.
type Enrolment struct {
	Node string
	// Pods are the captured ones with the uid of each: pods of the same name follow one another.
	Pods map[Name]string
}

// Key names it.
func (e *Enrolment) Key() Key { return Key{KindEnrolment, Name{Name: e.Node}} }

// PeerAuthentication says whether workloads accept plain text.
type PeerAuthentication struct {
	Namespace, Name string
	Created         time.Time
	// Selected is false for a policy about the whole namespace.
	Selected bool
	Selector Labels
	Mode     MTLS
	// Ports are exceptions, by the pods' ports.
	Ports    map[uint16]MTLS
	Revision string
}

// MTLS is a mode of accepting connections.
type MTLS int

// The modes. Unset inherits; Disable accepts the same as Permissive.
const (
	MTLSUnset MTLS = iota
	MTLSPermissive
	MTLSStrict
	MTLSDisable
)

// Key names it.
func (p *PeerAuthentication) Key() Key { return Key{KindPeerAuthentication, Name{p.Namespace, p.Name}} }

func (p *PeerAuthentication) selector() (Labels, bool) { return p.Selector, p.Selected }

func (p *PeerAuthentication) revision() string { return p.Revision }
