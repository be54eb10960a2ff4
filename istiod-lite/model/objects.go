package model

import (
	"net/netip"
	"time"
)

// Namespace is what is said of all objects of a namespace.
type Namespace struct {
	Name                string
	Labels, Annotations map[string]string
}

// Key names it.
func (n *Namespace) Key() Key { return Key{KindNamespace, Name{Name: n.Name}} }

// Node is a machine.
type Node struct {
	Name   string
	Labels map[string]string
}

// Key names it.
func (n *Node) Key() Key { return Key{KindNode, Name{Name: n.Name}} }

// Pod is a running instance of an app.
type Pod struct {
	Namespace, Name, UID string
	Labels, Annotations  map[string]string
	Node, ServiceAccount string
	IPs                  []netip.Addr
	// HostNetwork says that the addresses are the node's.
	HostNetwork bool
	// Ended says that the pod succeeded or failed for good.
	Ended bool
	// Ready says that it takes traffic: the condition is true and nobody deletes it.
	Ready bool
	// Ports are the named TCP ports of its containers.
	Ports map[string]uint16
	Owner Owner
}

// Owner is the object that made a pod; empty for a pod made by hand.
type Owner struct{ Kind, Name string }

// Key names it.
func (p *Pod) Key() Key { return Key{KindPod, Name{p.Namespace, p.Name}} }

func (p *Pod) labels() map[string]string { return p.Labels }

func (p *Pod) account() account { return account{p.Node, Name{p.Namespace, p.ServiceAccount}} }

// Service is a name and a virtual address for pods.
type Service struct {
	Namespace, Name     string
	Annotations         map[string]string
	Selector            map[string]string
	VIPs                []netip.Addr
	Ports               []ServicePort
	IPFamilies          []string // IPv4, IPv6
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
	// AppProtocol is as written, or empty.
	AppProtocol string
}

// Key names it.
func (s *Service) Key() Key { return Key{KindService, Name{s.Namespace, s.Name}} }

// A service without a selector selects nothing; its endpoints are written by hand.
func (s *Service) selector() (map[string]string, bool) { return s.Selector, len(s.Selector) > 0 }

// EndpointSlice is a part of a service's endpoints.
type EndpointSlice struct {
	Namespace, Name string
	// Service is the service's name, in the same namespace; empty if the slice belongs to none.
	Service   string
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort is a TCP port of every endpoint of a slice.
type EndpointPort struct {
	Name string
	Port uint16
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
	Selector map[string]string
	Mode     MTLS
	// Ports are exceptions, by the pods' ports.
	Ports map[uint16]MTLS
}

// MTLS is a mode of accepting connections. Ambient's DISABLE is the same as its PERMISSIVE.
type MTLS int

// The modes. Unset inherits.
const (
	MTLSUnset MTLS = iota
	MTLSPermissive
	MTLSStrict
)

// Key names it.
func (p *PeerAuthentication) Key() Key { return Key{KindPeerAuthentication, Name{p.Namespace, p.Name}} }

func (p *PeerAuthentication) selector() (map[string]string, bool) { return p.Selector, p.Selected }
