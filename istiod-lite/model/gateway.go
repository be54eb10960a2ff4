package model

import (
	"net/netip"
	"slices"
)

// Gateway is a proxy that traffic is sent through: a waypoint, a way into another network, or a way into the mesh.
type Gateway struct {
	Namespace, Name, UID string
	Generation           int64
	Class                string
	Revision             string
	// Network is the network that it leads into, by its label.
	Network string
	// ServiceAccount is what its instances run as.
	ServiceAccount string
	// For is the traffic that it takes as a waypoint, and Inbound how; nil or empty leaves it to the class.
	For     Traffic
	Inbound *Inbound
	// XFCC has it tell servers who their client is; nil leaves it to the class.
	XFCC *bool
	// Addresses are where it is, of its status, and Wanted those of its spec.
	Addresses, Wanted []GatewayAddress
	Listeners         []Listener
	Objects           GatewayObjects
	// Deleted says that it is about to go.
	Deleted bool
}

// GatewayObjects is what a Gateway says of the objects that are made for it, such as a Deployment and a Service.
type GatewayObjects struct {
	// Name is theirs, and ServiceType the Service's; empty leaves it to the control plane.
	Name, ServiceType string
	// Labels and Annotations are put on all of them.
	Labels, Annotations map[string]string
	// Parameters is where changes of them are written down; nil if nowhere.
	Parameters *ObjectRef
}

// Deployed names the Deployment and the Service of the gateway.
func (g *Gateway) Deployed() Name { return Name{g.Namespace, either(g.Objects.Name, g.Name)} }

// GatewayClass is what gateways have in common.
type GatewayClass struct {
	Name, Controller string
	Generation       int64
	// For, Inbound and XFCC are as those of a Gateway.
	For     Traffic
	Inbound *Inbound
	XFCC    *bool
}

// GatewayAddress is an IP address, or a host name.
type GatewayAddress struct {
	IP   netip.Addr
	Host string
}

// Type is that of the Gateway API.
func (a GatewayAddress) Type() string {
	if a.Host != "" {
		return "Hostname"
	}
	return "IPAddress"
}

// String is the address as it is written.
func (a GatewayAddress) String() string {
	if a.Host != "" {
		return a.Host
	}
	return a.IP.String()
}

// Listener is a port of a gateway.
type Listener struct {
	Name     string
	Port     uint16
	Protocol string
	// From says which namespaces may use it: Same, All, or those that Namespaces chooses.
	From       From
	Namespaces Selector
	// Kinds are the only ones of routes that may be attached; empty means any.
	Kinds []GroupKind
}

// RouteGroup is the group of all kinds of routes.
const RouteGroup = "gateway.networking.k8s.io"

// Takes tells whether routes of the kind may be attached.
func (l *Listener) Takes(kind Kind) bool {
	return len(l.Kinds) == 0 || slices.Contains(l.Kinds, GroupKind{RouteGroup, string(kind)})
}

// GroupKind names a kind of object.
type GroupKind struct{ Group, Kind string }

// From says which namespaces something is open to.
type From string

// The choices.
const (
	FromSame     From = "Same"
	FromAll      From = "All"
	FromSelector From = "Selector"
)

// Traffic is what a waypoint takes.
type Traffic string

// What a waypoint takes: connections to services, to workloads, both, or nothing.
const (
	ForService  Traffic = "service"
	ForWorkload Traffic = "workload"
	ForAll      Traffic = "all"
	ForNone     Traffic = "none"
)

// Takes tells whether a waypoint for this takes the other.
func (t Traffic) Takes(other Traffic) bool { return t == ForAll || t == other && t != ForNone }

// Inbound is how a waypoint's instance gets its traffic from the ztunnel of its node; port 0 leaves the port as it is.
type Inbound struct {
	PROXY bool // with a header of the PROXY protocol
	Port  uint16
}

// RevisionLabel says to which revision of control planes an object belongs.
const RevisionLabel = "istio.io/rev"

// HBONEPort is where gateways take HBONE.
const HBONEPort = 15008

// Key names it.
func (g *Gateway) Key() Key { return Key{KindGateway, Name{g.Namespace, g.Name}} }

// Key names it.
func (c *GatewayClass) Key() Key { return Key{KindGatewayClass, Name{Name: c.Name}} }

// Ready tells whether the gateway has ever been ready: then it has an address, and keeps it.
func (g *Gateway) Ready() bool { return len(g.Addresses) > 0 }

// RevisionOf is that of the control plane which the gateway belongs to: its own label's, else its namespace's; empty is the
// default.
func (m *Model) RevisionOf(g *Gateway) string {
	if in := m.namespaces[g.Namespace]; g.Revision == "" && in != nil {
		return in.Labels.Get(RevisionLabel)
	}
	return g.Revision
}

// Takes is the traffic that the gateway takes as a waypoint.
func (m *Model) Takes(g *Gateway) Traffic {
	if g.For != "" {
		return g.For
	}
	if class := m.classes[g.Class]; class != nil && class.For != "" {
		return class.For
	}
	return ForService
}

// Inbound is how the gateway's instances get their traffic; nil means by HBONE.
func (m *Model) Inbound(g *Gateway) *Inbound {
	if g.Inbound != nil {
		return g.Inbound
	}
	if class := m.classes[g.Class]; class != nil {
		return class.Inbound
	}
	return nil
}

// XFCC tells whether the gateway, as a waypoint, tells servers who their client is, in x-forwarded-client-cert.
func (m *Model) XFCC(g *Gateway) bool {
	said := g.XFCC
	if class := m.classes[g.Class]; said == nil && class != nil {
		said = class.XFCC
	}
	return said != nil && *said
}

// Admits tells whether objects of the namespace may use the gateway as their waypoint. It asks the listener that takes
// the mesh's traffic; without one, the gateway is for its own namespace.
func (m *Model) Admits(g *Gateway, namespace string) bool {
	listener := m.meshListener(g)
	switch {
	case listener != nil && listener.From == FromAll:
		return true
	case listener != nil && listener.From == FromSelector:
		var labels Labels
		if in := m.namespaces[namespace]; in != nil {
			labels = in.Labels
		}
		return listener.Namespaces.Matches(labels)
	}
	return namespace == g.Namespace
}

func (m *Model) meshListener(g *Gateway) *Listener {
	inbound := m.Inbound(g)
	var hbone *Listener
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if inbound != nil && inbound.Port != 0 && l.Port == inbound.Port {
			return l
		}
		if l.Protocol == "HBONE" && l.Port == HBONEPort {
			hbone = l
		}
	}
	return hbone
}
