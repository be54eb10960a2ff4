package dump

import (
	"strconv"

	"github.com/tulle-mesh/tulle/mesh/state"
)

type workload struct {
	UID                   string             `json:"uid"`
	WorkloadIPs           []string           `json:"workloadIps"`
	Waypoint              *gateway           `json:"waypoint,omitempty"`
	NetworkGateway        *gateway           `json:"networkGateway,omitempty"`
	Protocol              string             `json:"protocol"`
	Name                  string             `json:"name"`
	Namespace             string             `json:"namespace"`
	ServiceAccount        string             `json:"serviceAccount"`
	WorkloadName          string             `json:"workloadName"`
	WorkloadType          string             `json:"workloadType"`
	CanonicalName         string             `json:"canonicalName"`
	CanonicalRevision     string             `json:"canonicalRevision"`
	ClusterID             string             `json:"clusterId"`
	TrustDomain           string             `json:"trustDomain"`
	Locality              *locality          `json:"locality,omitempty"`
	Node                  string             `json:"node"`
	Network               string             `json:"network"`
	NetworkMode           string             `json:"networkMode"`
	NativeTunnel          bool               `json:"nativeTunnel"`
	Status                string             `json:"status"`
	Hostname              string             `json:"hostname"`
	Capacity              uint32             `json:"capacity"`
	ApplicationTunnel     *appTunnel         `json:"applicationTunnel,omitempty"`
	AuthorizationPolicies []string           `json:"authorizationPolicies,omitempty"`
	Services              map[string]portMap `json:"services,omitempty"`
}

type portMap map[string]uint16

type locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Subzone string `json:"subzone,omitempty"`
}

type gateway struct {
	Destination   string `json:"destination"`
	HBONEMTLSPort uint16 `json:"hboneMtlsPort"`
}

type appTunnel struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
}

type service struct {
	Name            string              `json:"name"`
	Namespace       string              `json:"namespace"`
	Hostname        string              `json:"hostname"`
	VIPs            []string            `json:"vips"`
	CIDRVIPs        []string            `json:"cidrVips,omitempty"`
	Ports           portMap             `json:"ports"`
	LoadBalancer    *loadBalancer       `json:"loadBalancer,omitempty"`
	Waypoint        *gateway            `json:"waypoint,omitempty"`
	Endpoints       map[string]endpoint `json:"endpoints"`
	SubjectAltNames []string            `json:"subjectAltNames"`
	IPFamilies      string              `json:"ipFamilies,omitempty"`
	Canonical       bool                `json:"canonical"`
	Visibility      string              `json:"visibility"`
}

type loadBalancer struct {
	Mode               string   `json:"mode"`
	RoutingPreferences []string `json:"routingPreferences"`
	HealthPolicy       string   `json:"healthPolicy"`
}

type endpoint struct {
	WorkloadUID string  `json:"workloadUid"`
	Port        portMap `json:"port"`
	Status      string  `json:"status"`
}

func newWorkload(w *state.Workload) workload {
	d := workload{
		UID: w.UID, WorkloadIPs: texts(w.Addresses), Waypoint: newGateway(w.Waypoint), NetworkGateway: newGateway(w.NetworkGateway),
		Protocol: w.Protocol.String(), Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, WorkloadName: w.WorkloadName,
		WorkloadType: w.Type.String(), CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision, ClusterID: w.ClusterID,
		TrustDomain: w.TrustDomain, Node: w.Node, Network: w.Network, NetworkMode: choose(w.HostNetwork, "HostNetwork", "Standard"),
		NativeTunnel: w.NativeTunnel, Status: health(w), Hostname: w.Hostname, Capacity: w.Capacity, AuthorizationPolicies: w.Policies,
	}
	if w.Locality != (state.Locality{}) {
		d.Locality = &locality{w.Locality.Region, w.Locality.Zone, w.Locality.Subzone}
	}
	if w.AppTunnel != nil {
		d.ApplicationTunnel = &appTunnel{choose(w.AppTunnel.PROXY, "PROXY", "NONE"), w.AppTunnel.Port}
	}
	if len(w.Services) > 0 {
		d.Services = map[string]portMap{}
	}
	for _, of := range w.Services {
		d.Services[of.Service] = newPorts(of.Ports)
	}
	return d
}

func newService(t *state.Table, svc *state.Service) service {
	d := service{
		Name: svc.Name, Namespace: svc.Namespace, Hostname: svc.Hostname, VIPs: []string{}, Ports: newPorts(svc.Ports),
		Waypoint: newGateway(svc.Waypoint), Endpoints: map[string]endpoint{}, SubjectAltNames: texts(svc.SANs),
		IPFamilies: [...]string{"", "IPv4", "IPv6", "Dual"}[svc.IPFamilies&3], Canonical: svc.Canonical,
		Visibility: choose(svc.Visibility == state.NamespaceOnly, "Namespace", "Public"), LoadBalancer: newLoadBalancer(svc.LoadBalancing),
	}
	for _, vip := range svc.VIPs {
		d.VIPs = append(d.VIPs, vip.Network+"/"+vip.Addr.String())
	}
	for _, cidr := range svc.CIDRs {
		d.CIDRVIPs = append(d.CIDRVIPs, cidr.Network+"/"+cidr.Prefix.String())
	}
	for _, e := range t.Endpoints(svc) {
		d.Endpoints[e.Workload.UID] = endpoint{e.Workload.UID, newPorts(e.Ports), health(e.Workload)}
	}
	return d
}

func newLoadBalancer(lb state.LoadBalancing) *loadBalancer {
	if lb.Mode == state.ModeAny && !lb.AnyHealth {
		return nil
	}
	d := &loadBalancer{
		Mode:               [...]string{"Standard", "Strict", "Failover", "Passthrough"}[lb.Mode&3],
		RoutingPreferences: []string{}, HealthPolicy: choose(lb.AnyHealth, "AllowAll", "OnlyHealthy"),
	}
	for _, p := range lb.Preferences {
		names := [...]string{"", "Region", "Zone", "Subzone", "Node", "Cluster", "Network", ""}
		d.RoutingPreferences = append(d.RoutingPreferences, names[p&7])
	}
	return d
}

func newGateway(gw *state.Gateway) *gateway {
	if gw == nil {
		return nil
	}
	destination := gw.Host.String()
	if gw.Address.Addr.IsValid() {
		destination = gw.Address.Network + "/" + gw.Address.Addr.String()
	}
	return &gateway{destination, gw.Port}
}

func newPorts(list []state.Port) portMap {
	d := portMap{}
	for _, p := range list {
		d[strconv.Itoa(int(p.Service))] = p.Target
	}
	return d
}

func health(w *state.Workload) string { return choose(w.Healthy, "Healthy", "Unhealthy") }

func choose(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

func texts[T interface{ String() string }](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}
