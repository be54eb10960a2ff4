package translate

import (
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

func (mesh Mesh) service(m *model.Model, s *model.Service) *workload.Service {
	out := &workload.Service{
		Name:          s.Name,
		Namespace:     s.Namespace,
		Hostname:      m.Hostname(s),
		Ports:         servicePorts(s.Ports),
		LoadBalancing: loadBalancing(m, s),
		IpFamilies:    families(s.IPFamilies),
		Canonical:     true,
	}
	for _, vip := range s.VIPs {
		out.Addresses = append(out.Addresses, &workload.NetworkAddress{Network: m.Network(), Address: vip.AsSlice()})
	}
	mesh.bind(m, serviceWish(s)).into(out)
	return out
}

func servicePorts(ports []model.ServicePort) []*workload.Port {
	var list []*workload.Port
	for _, port := range ports {
		list = append(list, &workload.Port{
			ServicePort: uint32(port.Port), TargetPort: uint32(port.Target), AppProtocol: appProtocol(port),
		})
	}
	return list
}

func families(list []string) workload.IPFamilies {
	var v4, v6 bool
	for _, family := range list {
		v4 = v4 || family == "IPv4"
		v6 = v6 || family == "IPv6"
	}
	switch {
	case v4 && v6:
		return workload.IPFamilies_DUAL
	case v4:
		return workload.IPFamilies_IPV4_ONLY
	case v6:
		return workload.IPFamilies_IPV6_ONLY
	}
	return workload.IPFamilies_AUTOMATIC
}

// loadBalancing says which endpoints are preferred; nil if any will do. It is made afresh for each service, since it is
// changed here.
func loadBalancing(m *model.Model, s *model.Service) *workload.LoadBalancing {
	lb := preference(distribution(m, s.Namespace, s.TrafficDistribution))
	if s.NodeLocal {
		lb = &workload.LoadBalancing{
			RoutingPreference: []workload.LoadBalancing_Scope{workload.LoadBalancing_NODE},
			Mode:              workload.LoadBalancing_STRICT,
		}
	}
	if s.PublishNotReady {
		if lb == nil {
			lb = &workload.LoadBalancing{}
		}
		lb.HealthPolicy = workload.LoadBalancing_ALLOW_ALL
	}
	return lb
}

func preference(distribution string) *workload.LoadBalancing {
	scopes := []workload.LoadBalancing_Scope{
		workload.LoadBalancing_NETWORK, workload.LoadBalancing_REGION, workload.LoadBalancing_ZONE,
	}
	switch distribution {
	case "PreferClose", "PreferSameZone":
	case "PreferSameNode":
		scopes = append(scopes, workload.LoadBalancing_SUBZONE, workload.LoadBalancing_NODE)
	default:
		return nil
	}
	return &workload.LoadBalancing{RoutingPreference: scopes, Mode: workload.LoadBalancing_FAILOVER}
}

// distribution is a service's own wish, else its namespace's.
func distribution(m *model.Model, of, own string) string {
	if namespace := m.Namespace(of); own == "" && namespace != nil {
		return namespace.TrafficDistribution
	}
	return own
}

// appProtocol goes by the port's appProtocol, else by its name up to the first dash.
func appProtocol(port model.ServicePort) workload.AppProtocol {
	name := port.AppProtocol
	if name == "" {
		name, _, _ = strings.Cut(port.Name, "-")
		if strings.HasPrefix(port.Name, "grpc-web") {
			name = "grpc-web"
		}
	}
	switch strings.ToLower(name) {
	case "http", "grpc-web", "kubernetes.io/ws":
		return workload.AppProtocol_HTTP11
	case "http2", "h2c", "kubernetes.io/h2c":
		return workload.AppProtocol_HTTP2
	case "grpc":
		return workload.AppProtocol_GRPC
	case "https", "tls", "kubernetes.io/wss":
		return workload.AppProtocol_TLS
	case "tcp", "mongo", "mysql", "redis":
		return workload.AppProtocol_TCP
	}
	return workload.AppProtocol_UNKNOWN
}
