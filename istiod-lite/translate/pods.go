package translate

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// pod makes the workload of a pod that has an address and hasn't ended. Pods outside of the mesh are there too: they are
// called in plain text.
func (mesh Mesh) pod(m *model.Model, p *model.Pod) Result {
	if p.Ended || len(p.IPs) == 0 {
		return Result{}
	}
	name := workloadName(p)
	w := &workload.Workload{
		Uid:                   mesh.ClusterID + "//Pod/" + p.Namespace + "/" + p.Name,
		Name:                  p.Name,
		Namespace:             p.Namespace,
		Addresses:             addresses(p.IPs),
		TrustDomain:           mesh.trustDomain(),
		ServiceAccount:        p.ServiceAccount,
		Node:                  p.Node,
		CanonicalName:         label(p.Labels, name, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app"),
		CanonicalRevision:     label(p.Labels, "latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"),
		WorkloadType:          workload.WorkloadType_POD,
		WorkloadName:          name,
		Services:              mesh.servicesOf(m, p),
		AuthorizationPolicies: policiesOf(m, p),
		ClusterId:             mesh.ClusterID,
		Locality:              locality(m.Node(p.Node)),
	}
	if !p.Ready {
		w.Status = workload.WorkloadStatus_UNHEALTHY
	}
	if p.HostNetwork {
		w.NetworkMode = workload.NetworkMode_HOST_NETWORK
	}
	switch {
	case p.Labels["networking.istio.io/tunnel"] == "http":
		w.TunnelProtocol, w.NativeTunnel = workload.TunnelProtocol_HBONE, true
	case m.Enrolled(p) || p.Annotations["ambient.istio.io/redirection"] == "enabled":
		// Only now: whoever reads this dials 15008.
		w.TunnelProtocol = workload.TunnelProtocol_HBONE
	}
	return one(workloadResource(w))
}

// trustDomain leaves out the one that clients assume.
func (mesh Mesh) trustDomain() string {
	if mesh.TrustDomain == "cluster.local" {
		return ""
	}
	return mesh.TrustDomain
}

func addresses(ips []netip.Addr) [][]byte {
	list := make([][]byte, len(ips))
	for i, ip := range ips {
		list[i] = ip.AsSlice()
	}
	return list
}

// label returns the first label that is set.
func label(labels map[string]string, otherwise string, keys ...string) string {
	for _, key := range keys {
		if value := labels[key]; value != "" {
			return value
		}
	}
	return otherwise
}

func locality(node *model.Node) *workload.Locality {
	if node == nil {
		return nil
	}
	l := &workload.Locality{
		Region:  node.Labels["topology.kubernetes.io/region"],
		Zone:    node.Labels["topology.kubernetes.io/zone"],
		Subzone: node.Labels["topology.istio.io/subzone"],
	}
	if l.Region == "" && l.Zone == "" && l.Subzone == "" {
		return nil
	}
	return l
}

// A CronJob names its jobs after itself and the minute.
var cronJobRun = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadName is what a person calls the app that the pod belongs to: the name of what made it, one step further up for
// the Deployment of a ReplicaSet and the CronJob of a Job.
func workloadName(p *model.Pod) string {
	switch p.Owner.Kind {
	case "":
		return p.Name
	case "ReplicaSet":
		for _, key := range []string{"pod-template-hash", "rollouts-pod-template-hash"} {
			if hash := p.Labels[key]; hash != "" {
				if name, ok := strings.CutSuffix(p.Owner.Name, "-"+hash); ok {
					return name
				}
			}
		}
	case "Job":
		if run := cronJobRun.FindStringSubmatch(p.Owner.Name); run != nil {
			return run[1]
		}
	}
	return p.Owner.Name
}

// servicesOf lists the services that the pod is an endpoint of, with its own ports for theirs.
func (mesh Mesh) servicesOf(m *model.Model, p *model.Pod) map[string]*workload.PortList {
	services := make(map[string]*workload.PortList)
	for _, s := range m.ServicesOf(p) {
		services[mesh.serviceName(s)] = podPorts(s, p)
	}
	for _, slice := range m.SlicesOf(p) {
		s := m.Service(model.Name{Namespace: slice.Namespace, Name: slice.Service})
		if s == nil || len(s.Selector) > 0 || !names(slice, p) {
			continue
		}
		name := mesh.serviceName(s)
		if services[name] == nil {
			services[name] = &workload.PortList{}
		}
		services[name].Ports = append(services[name].Ports, slicePorts(s, slice)...)
	}
	return services
}

// names tells whether the slice has this pod, not one of the same name before it.
func names(slice *model.EndpointSlice, p *model.Pod) bool {
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if e.Pod == p.Key().Name && e.PodUID == p.UID {
			return true
		}
	}
	return false
}

// podPorts resolves named ports by the pod's own containers. A port that the pod doesn't have is left out.
func podPorts(s *model.Service, p *model.Pod) *workload.PortList {
	list := &workload.PortList{}
	for _, port := range s.Ports {
		target := port.Target
		if port.TargetName != "" {
			target = p.Ports[port.TargetName]
		}
		if target != 0 {
			list.Ports = append(list.Ports, &workload.Port{ServicePort: uint32(port.Port), TargetPort: uint32(target)})
		}
	}
	return list
}

// policiesOf names the policies that the pod's ztunnel must know beside those about whole namespaces.
func policiesOf(m *model.Model, p *model.Pod) []string {
	var list []string
	for _, policy := range m.PoliciesOf(p) {
		if published(policy) {
			list = append(list, policy.Key().String())
		}
	}
	if strict := strictPolicy(m, p); strict != "" {
		list = append(list, strict)
	}
	return list
}
