package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

type localWorkload struct {
	UID                   string                `yaml:"uid"`
	Name                  string                `yaml:"name"`
	Namespace             string                `yaml:"namespace"`
	ServiceAccount        string                `yaml:"serviceAccount"`
	WorkloadIPs           []string              `yaml:"workloadIps"`
	Hostname              string                `yaml:"hostname"`
	Protocol              string                `yaml:"protocol"`
	Network               string                `yaml:"network"`
	Node                  string                `yaml:"node"`
	TrustDomain           string                `yaml:"trustDomain"`
	CanonicalName         string                `yaml:"canonicalName"`
	CanonicalRevision     string                `yaml:"canonicalRevision"`
	WorkloadName          string                `yaml:"workloadName"`
	WorkloadType          string                `yaml:"workloadType"`
	ClusterID             string                `yaml:"clusterId"`
	Locality              localLocality         `yaml:"locality"`
	Status                string                `yaml:"status"`
	NetworkMode           string                `yaml:"networkMode"`
	NativeTunnel          bool                  `yaml:"nativeTunnel"`
	ApplicationTunnel     *localAppTunnel       `yaml:"applicationTunnel"`
	Capacity              *uint32               `yaml:"capacity"`
	AuthorizationPolicies []string              `yaml:"authorizationPolicies"`
	Waypoint              *localGateway         `yaml:"waypoint"`
	NetworkGateway        *localGateway         `yaml:"networkGateway"`
	Services              map[string]localPorts `yaml:"services"`
}

type localService struct {
	Name            string            `yaml:"name"`
	Namespace       string            `yaml:"namespace"`
	Hostname        string            `yaml:"hostname"`
	VIPs            []string          `yaml:"vips"`
	CIDRVIPs        []string          `yaml:"cidrVips"`
	Ports           localPorts        `yaml:"ports"`
	SubjectAltNames []string          `yaml:"subjectAltNames"`
	Waypoint        *localGateway     `yaml:"waypoint"`
	LoadBalancer    localLoadBalancer `yaml:"loadBalancer"`
	IPFamilies      string            `yaml:"ipFamilies"`
	Canonical       bool              `yaml:"canonical"`
	Visibility      string            `yaml:"visibility"`
}

// localPorts maps service ports to target ports.
type localPorts map[uint16]uint16

type localLocality struct {
	Region  string `yaml:"region"`
	Zone    string `yaml:"zone"`
	Subzone string `yaml:"subzone"`
}

type localAppTunnel struct {
	Protocol string `yaml:"protocol"`
	Port     uint16 `yaml:"port"`
}

// localGateway's destination is "network/ip" or "namespace/hostname".
type localGateway struct {
	Destination   string `yaml:"destination"`
	HBONEMTLSPort uint16 `yaml:"hboneMtlsPort"`
}

type localLoadBalancer struct {
	RoutingPreferences []string `yaml:"routingPreferences"`
	Mode               string   `yaml:"mode"`
	HealthPolicy       string   `yaml:"healthPolicy"`
}

func (l *localWorkload) address() (_ []*workload.Address, err error) {
	w := &workload.Workload{
		Uid: l.UID, Name: l.Name, Namespace: l.Namespace, ServiceAccount: l.ServiceAccount,
		Hostname: l.Hostname, Network: l.Network, Node: l.Node, TrustDomain: l.TrustDomain,
		CanonicalName: l.CanonicalName, CanonicalRevision: l.CanonicalRevision,
		WorkloadName: l.WorkloadName, ClusterId: l.ClusterID, NativeTunnel: l.NativeTunnel,
		AuthorizationPolicies: l.AuthorizationPolicies,
		Locality:              &workload.Locality{Region: l.Locality.Region, Zone: l.Locality.Zone, Subzone: l.Locality.Subzone},
	}
	protocol := l.Protocol
	if strings.EqualFold(protocol, "TCP") {
		protocol = "NONE"
	}
	w.TunnelProtocol = enum[workload.TunnelProtocol](protocol, workload.TunnelProtocol_value, &err)
	w.WorkloadType = enum[workload.WorkloadType](l.WorkloadType, workload.WorkloadType_value, &err)
	w.Status = enum[workload.WorkloadStatus](l.Status, workload.WorkloadStatus_value, &err)
	w.NetworkMode = enum[workload.NetworkMode](l.NetworkMode, workload.NetworkMode_value, &err)
	if l.Capacity != nil {
		w.Capacity = wrapperspb.UInt32(*l.Capacity)
	}
	if t := l.ApplicationTunnel; t != nil {
		w.ApplicationTunnel = &workload.ApplicationTunnel{Port: uint32(t.Port)}
		w.ApplicationTunnel.Protocol = enum[workload.ApplicationTunnel_Protocol](t.Protocol, workload.ApplicationTunnel_Protocol_value, &err)
	}
	for _, text := range l.WorkloadIPs {
		ip, parseErr := netip.ParseAddr(text)
		keep(&err, parseErr)
		w.Addresses = append(w.Addresses, ip.AsSlice())
	}
	w.Waypoint = l.Waypoint.message(&err)
	w.NetworkGateway = l.NetworkGateway.message(&err)
	for name, ports := range l.Services {
		if w.Services == nil {
			w.Services = map[string]*workload.PortList{}
		}
		w.Services[name] = &workload.PortList{Ports: ports.message()}
	}
	return []*workload.Address{{Type: &workload.Address_Workload{Workload: w}}}, err
}

func (l *localService) address() (_ []*workload.Address, err error) {
	s := &workload.Service{
		Name: l.Name, Namespace: l.Namespace, Hostname: l.Hostname, Ports: l.Ports.message(),
		SubjectAltNames: l.SubjectAltNames, Canonical: l.Canonical,
		Waypoint:      l.Waypoint.message(&err),
		LoadBalancing: l.LoadBalancer.message(&err),
	}
	families := strings.ToUpper(l.IPFamilies)
	if families == "IPV4" || families == "IPV6" {
		families += "ONLY"
	}
	s.IpFamilies = enum[workload.IPFamilies](families, workload.IPFamilies_value, &err)
	s.Visibility = enum[workload.ServiceVisibility](l.Visibility, workload.ServiceVisibility_value, &err)
	for _, text := range l.VIPs {
		network, ipText, _ := strings.Cut(text, "/")
		ip, parseErr := netip.ParseAddr(ipText)
		keep(&err, parseErr)
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{Network: network, Address: ip.AsSlice()})
	}
	for _, text := range l.CIDRVIPs {
		network, prefixText, _ := strings.Cut(text, "/")
		prefix, parseErr := netip.ParsePrefix(prefixText)
		keep(&err, parseErr)
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{
			Network: network, Address: prefix.Addr().AsSlice(), Length: proto.Uint32(uint32(max(prefix.Bits(), 0))),
		})
	}
	return []*workload.Address{{Type: &workload.Address_Service{Service: s}}}, err
}

func (p localPorts) message() []*workload.Port {
	var list []*workload.Port
	for _, port := range slices.Sorted(maps.Keys(p)) {
		list = append(list, &workload.Port{ServicePort: uint32(port), TargetPort: uint32(p[port])})
	}
	return list
}

func (g *localGateway) message(failed *error) *workload.GatewayAddress {
	if g == nil {
		return nil
	}
	m := &workload.GatewayAddress{HboneMtlsPort: uint32(g.HBONEMTLSPort)}
	before, after, ok := strings.Cut(g.Destination, "/")
	if !ok {
		keep(failed, fmt.Errorf("destination %q: want network/address or namespace/hostname", g.Destination))
	}
	if ip, err := netip.ParseAddr(after); err == nil {
		m.Destination = &workload.GatewayAddress_Address{
			Address: &workload.NetworkAddress{Network: before, Address: ip.AsSlice()},
		}
		return m
	}
	m.Destination = &workload.GatewayAddress_Hostname{
		Hostname: &workload.NamespacedHostname{Namespace: before, Hostname: after},
	}
	return m
}

func (l *localLoadBalancer) message(failed *error) *workload.LoadBalancing {
	m := &workload.LoadBalancing{
		HealthPolicy: enum[workload.LoadBalancing_HealthPolicy](l.HealthPolicy, workload.LoadBalancing_HealthPolicy_value, failed),
	}
	if mode := l.Mode; !strings.EqualFold(mode, "Standard") {
		m.Mode = enum[workload.LoadBalancing_Mode](mode, workload.LoadBalancing_Mode_value, failed)
	}
	for _, scope := range l.RoutingPreferences {
		m.RoutingPreference = append(m.RoutingPreference,
			enum[workload.LoadBalancing_Scope](scope, workload.LoadBalancing_Scope_value, failed))
	}
	return m
}

// enum returns the value of a name written in any case, with or without underscores. Absent means the first one.
func enum[E ~int32](name string, values map[string]int32, failed *error) E {
	if name == "" {
		return 0
	}
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	for known, value := range values {
		if plain(known) == plain(name) {
			return E(value)
		}
	}
	keep(failed, fmt.Errorf("%q is none of %s", name, strings.Join(slices.Sorted(maps.Keys(values)), ", ")))
	return 0
}

// keep holds on to the first error.
func keep(first *error, err error) {
	if *first == nil {
		*first = err
	}
}
