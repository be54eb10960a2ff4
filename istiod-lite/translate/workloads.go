package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// trustDomain leaves out the one that clients assume.
func trustDomain(m *model.Model) string {
	if m.TrustDomain() == "cluster.local" {
		return ""
	}
	return m.TrustDomain()
}

func addresses(ips []netip.Addr) [][]byte {
	list := make([][]byte, len(ips))
	for i, ip := range ips {
		list[i] = ip.AsSlice()
	}
	return list
}

// canonical names a workload and its revision for telemetry.
func canonical(labels model.Labels, name string) (canonicalName, revision string) {
	return label(labels, name, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app"),
		label(labels, "latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
}

// label returns the first label that is set.
func label(labels model.Labels, otherwise string, keys ...string) string {
	for _, key := range keys {
		if value := labels.Get(key); value != "" {
			return value
		}
	}
	return otherwise
}

func locality(l model.Locality) *workload.Locality {
	if l == (model.Locality{}) {
		return nil
	}
	return &workload.Locality{Region: l.Region, Zone: l.Zone, Subzone: l.Subzone}
}

func nodeLocality(m *model.Model, name string) *workload.Locality {
	if node := m.Node(name); node != nil {
		return locality(node.Locality)
	}
	return nil
}

// speaksHBONE tells whether labels say that the workload takes HBONE by itself.
func speaksHBONE(labels model.Labels) bool { return labels.Get("networking.istio.io/tunnel") == "http" }

// policiesOf names the policies that the ztunnel of a workload with these labels must know beside those about whole
// namespaces. If they are too many, it is one that refuses everybody.
func (mesh Mesh) policiesOf(m *model.Model, namespace string, labels model.Labels) []string {
	var list []string
	for _, policy := range m.PoliciesOf(namespace, labels) {
		if mesh.published(policy) {
			list = append(list, policy.Key().String())
		}
	}
	if len(list) > model.MaxPolicies {
		return []string{m.RootNamespace() + "/" + tooManyPolicies} // without one of them somebody might be let in
	}
	if strict := strictPolicy(m, namespace, labels); strict != "" {
		list = append(list, strict)
	}
	return list
}

// workloadResult is what becomes of an object that is a workload.
func workloadResult(key model.Key, w *workload.Workload) Result {
	result := one(workloadResource(w))
	if slices.ContainsFunc(w.AuthorizationPolicies, func(name string) bool { return strings.HasSuffix(name, "/"+tooManyPolicies) }) {
		result.note(key, fmt.Sprintf("more than %d AuthorizationPolicies select it, so nobody is let in: join some of them, or select fewer workloads", model.MaxPolicies))
	}
	return result
}

// allowed names the policies that let in nobody but the waypoints of a workload and of its services.
func (mesh Mesh) allowed(m *model.Model, own bound, services []*model.Service) []string {
	if !m.Settings().AllowWaypoints {
		return nil
	}
	waypoints := slices.Clone(own.names)
	for _, s := range services {
		waypoints = append(waypoints, mesh.bind(m, serviceWish(s)).names...)
	}
	var list []string
	for _, name := range waypoints {
		list = append(list, name.Namespace+"/"+allowWaypointName(name))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// place fills in where a workload outside of Kubernetes is.
func place(m *model.Model, w *workload.Workload, e *model.EntryEndpoint) {
	if e.IP.IsValid() {
		w.Addresses = [][]byte{e.IP.AsSlice()}
	}
	w.Hostname = e.Host
	w.Network = m.Network()
	if e.Network != "" && e.Network != w.Network {
		w.Network, w.NetworkGateway = e.Network, wayInto(m, e.Network)
	}
	w.Locality = locality(e.Locality)
	w.ServiceAccount = e.ServiceAccount
	if e.Weight > 0 {
		w.Capacity = wrapperspb.UInt32(e.Weight)
	}
	if speaksHBONE(e.Labels) {
		w.TunnelProtocol, w.NativeTunnel = workload.TunnelProtocol_HBONE, true
	}
}

// serviceName is how workloads refer to the service.
func serviceName(m *model.Model, s *model.Service) string { return s.Namespace + "/" + m.Hostname(s) }

// target is one step of finding the port of a workload for that of a service: 0 leaves it to the next.
type target func(*model.ServicePort) uint16

// mapPorts maps a service's ports to a workload's. A port that no step finds is left out.
func mapPorts(ports []model.ServicePort, steps ...target) *workload.PortList {
	list := &workload.PortList{}
	for i := range ports {
		for _, step := range steps {
			if found := step(&ports[i]); found != 0 {
				list.Ports = append(list.Ports, &workload.Port{ServicePort: uint32(ports[i].Port), TargetPort: uint32(found)})
				break
			}
		}
	}
	return list
}

// sameName finds the workload's port that is named like the service's.
func sameName(named []model.NamedPort) target {
	return func(p *model.ServicePort) uint16 { return model.PortNamed(named, p.Name) }
}

// targeted finds the port that the service asks for, by its name or number.
func targeted(named []model.NamedPort) target {
	return func(p *model.ServicePort) uint16 {
		if p.TargetName != "" {
			return model.PortNamed(named, p.TargetName)
		}
		return p.Target
	}
}

const tooManyPorts = "TooManyPorts"

// roomCondition says of a Service or ServiceEntry that there are workloads that can't be its endpoints.
func roomCondition(m *model.Model, chooser model.Key) *model.Condition {
	if s := m.Service(chooser.Name); !m.Late(chooser) && !(chooser.Kind == model.KindService && s.TooLarge()) {
		return nil
	}
	return &model.Condition{Type: model.WorkloadsSelected, Reason: tooManyPorts, Message: fmt.Sprintf(
		"some workloads that it selects, or that its EndpointSlices name, aren't its endpoints: with what else does they would have more than %d ports, those of a ServiceEntry counted for each host, and at least one of each; Services and what is older go first, and nothing after the first that finds no room: select with fewer, or list fewer hosts or ports",
		model.MaxMappings)}
}

// join adds the services of ServiceEntries that choose a workload: those of the hosts that are theirs.
func join(m *model.Model, services map[string]*workload.PortList, entries []*model.ServiceEntry, named []model.NamedPort) {
	for _, e := range entries {
		if e.Resolution == model.ResolveNone {
			continue
		}
		ports := mapPorts(e.Ports, sameName(named), targeted(nil)) // shared by the hosts, however many there are
		for _, host := range e.Hosts {
			if m.Owns(e, host) {
				services[e.Namespace+"/"+host] = ports
			}
		}
	}
}
