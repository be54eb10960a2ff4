package daemon

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

type workloadDump struct {
	UID                   string            `json:"uid"`
	WorkloadIPs           []string          `json:"workloadIps"`
	Waypoint              *gatewayDump      `json:"waypoint,omitempty"`
	NetworkGateway        *gatewayDump      `json:"networkGateway,omitempty"`
	Protocol              string            `json:"protocol"`
	Name                  string            `json:"name"`
	Namespace             string            `json:"namespace"`
	ServiceAccount        string            `json:"serviceAccount"`
	WorkloadName          string            `json:"workloadName"`
	WorkloadType          string            `json:"workloadType"`
	CanonicalName         string            `json:"canonicalName"`
	CanonicalRevision     string            `json:"canonicalRevision"`
	ClusterID             string            `json:"clusterId"`
	TrustDomain           string            `json:"trustDomain"`
	Locality              *localityDump     `json:"locality,omitempty"`
	Node                  string            `json:"node"`
	Network               string            `json:"network"`
	NetworkMode           string            `json:"networkMode"`
	NativeTunnel          bool              `json:"nativeTunnel"`
	Status                string            `json:"status"`
	Hostname              string            `json:"hostname"`
	Capacity              uint32            `json:"capacity"`
	ApplicationTunnel     *appTunnelDump    `json:"applicationTunnel,omitempty"`
	AuthorizationPolicies []string          `json:"authorizationPolicies,omitempty"`
	Services              map[string]portsD `json:"services,omitempty"`
}

type portsD map[string]uint16

type localityDump struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Subzone string `json:"subzone,omitempty"`
}

type gatewayDump struct {
	Destination   string `json:"destination"`
	HBONEMTLSPort uint16 `json:"hboneMtlsPort"`
}

type appTunnelDump struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
}

type serviceDump struct {
	Name            string                  `json:"name"`
	Namespace       string                  `json:"namespace"`
	Hostname        string                  `json:"hostname"`
	VIPs            []string                `json:"vips"`
	CIDRVIPs        []string                `json:"cidrVips,omitempty"`
	Ports           portsD                  `json:"ports"`
	LoadBalancer    *loadBalancerDump       `json:"loadBalancer,omitempty"`
	Waypoint        *gatewayDump            `json:"waypoint,omitempty"`
	Endpoints       map[string]endpointDump `json:"endpoints"`
	SubjectAltNames []string                `json:"subjectAltNames"`
	IPFamilies      string                  `json:"ipFamilies,omitempty"`
	Canonical       bool                    `json:"canonical"`
	Visibility      string                  `json:"visibility"`
}

type loadBalancerDump struct {
	Mode               string   `json:"mode"`
	RoutingPreferences []string `json:"routingPreferences"`
	HealthPolicy       string   `json:"healthPolicy"`
}

type endpointDump struct {
	WorkloadUID string `json:"workloadUid"`
	Port        portsD `json:"port"`
	Status      string `json:"status"`
}

func dumpWorkload(w *state.Workload) workloadDump {
	d := workloadDump{
		UID: w.UID, WorkloadIPs: texts(w.Addresses), Waypoint: dumpGateway(w.Waypoint), NetworkGateway: dumpGateway(w.NetworkGateway),
		Protocol: w.Protocol.String(), Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, WorkloadName: w.WorkloadName,
		WorkloadType: w.Type.String(), CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision, ClusterID: w.ClusterID,
		TrustDomain: w.TrustDomain, Node: w.Node, Network: w.Network, NetworkMode: choose(w.HostNetwork, "HostNetwork", "Standard"),
		NativeTunnel: w.NativeTunnel, Status: health(w), Hostname: w.Hostname, Capacity: w.Capacity, AuthorizationPolicies: w.Policies,
	}
	if w.Locality != (state.Locality{}) {
		d.Locality = &localityDump{w.Locality.Region, w.Locality.Zone, w.Locality.Subzone}
	}
	if w.AppTunnel != nil {
		d.ApplicationTunnel = &appTunnelDump{choose(w.AppTunnel.PROXY, "PROXY", "NONE"), w.AppTunnel.Port}
	}
	if len(w.Services) > 0 {
		d.Services = map[string]portsD{}
	}
	for name, list := range w.Services {
		d.Services[name] = ports(list)
	}
	return d
}

func dumpService(t *state.Table, svc *state.Service) serviceDump {
	d := serviceDump{
		Name: svc.Name, Namespace: svc.Namespace, Hostname: svc.Hostname, VIPs: []string{}, Ports: ports(svc.Ports),
		Waypoint: dumpGateway(svc.Waypoint), Endpoints: map[string]endpointDump{}, SubjectAltNames: texts(svc.SANs),
		IPFamilies: [...]string{"", "IPv4", "IPv6", "Dual"}[svc.IPFamilies&3], Canonical: svc.Canonical,
		Visibility: choose(svc.Visibility == state.NamespaceOnly, "Namespace", "Public"), LoadBalancer: dumpBalancing(svc.LoadBalancing),
	}
	for _, vip := range svc.VIPs {
		d.VIPs = append(d.VIPs, vip.Network+"/"+vip.Addr.String())
	}
	for _, cidr := range svc.CIDRs {
		d.CIDRVIPs = append(d.CIDRVIPs, cidr.Network+"/"+cidr.Prefix.String())
	}
	for _, endpoint := range t.Endpoints(svc) {
		w := endpoint.Workload
		d.Endpoints[w.UID] = endpointDump{w.UID, ports(endpoint.Ports), health(w)}
	}
	return d
}

func dumpBalancing(lb state.LoadBalancing) *loadBalancerDump {
	if lb.Mode == state.ModeAny && !lb.AnyHealth {
		return nil
	}
	d := &loadBalancerDump{
		Mode:               [...]string{"Standard", "Strict", "Failover", "Passthrough"}[lb.Mode&3],
		RoutingPreferences: []string{}, HealthPolicy: choose(lb.AnyHealth, "AllowAll", "OnlyHealthy"),
	}
	for _, p := range lb.Preferences {
		names := [...]string{"", "Region", "Zone", "Subzone", "Node", "Cluster", "Network", ""}
		d.RoutingPreferences = append(d.RoutingPreferences, names[p&7])
	}
	return d
}

func dumpGateway(gw *state.Gateway) *gatewayDump {
	if gw == nil {
		return nil
	}
	destination := gw.Host.String()
	if gw.Address.Addr.IsValid() {
		destination = gw.Address.Network + "/" + gw.Address.Addr.String()
	}
	return &gatewayDump{destination, gw.Port}
}

func ports(list []state.Port) portsD {
	d := portsD{}
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

// redacted is the configuration without what proves who we are.
func redacted(cfg config.Config) config.Config {
	if !strings.HasPrefix(cfg.Token, "/") && !strings.HasPrefix(cfg.Token, "./") && cfg.Token != "" {
		cfg.Token = "(a token)"
	}
	cfg.XDS.Headers, cfg.CA.Headers = nil, nil
	return cfg
}
