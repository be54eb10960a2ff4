package translate

import (
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
	services := m.ServicesOf(p.Namespace, p.Labels)
	w := &workload.Workload{
		Uid:                   mesh.ClusterID + "//Pod/" + p.Namespace + "/" + p.Name,
		Name:                  p.Name,
		Namespace:             p.Namespace,
		Addresses:             addresses(p.IPs),
		Network:               m.Network(),
		TrustDomain:           trustDomain(m),
		ServiceAccount:        p.ServiceAccount,
		Node:                  p.Node,
		WorkloadType:          workload.WorkloadType_POD,
		WorkloadName:          name,
		Services:              podServices(m, p, services),
		AuthorizationPolicies: mesh.policiesOf(m, p.Namespace, p.Labels),
		ClusterId:             mesh.ClusterID,
		Locality:              nodeLocality(m, p.Node),
	}
	w.CanonicalName, w.CanonicalRevision = canonical(p.Labels, name)
	if !p.Ready {
		w.Status = workload.WorkloadStatus_UNHEALTHY
	}
	if p.HostNetwork {
		w.NetworkMode = workload.NetworkMode_HOST_NETWORK
	}
	switch {
	case speaksHBONE(p.Labels):
		w.TunnelProtocol, w.NativeTunnel = workload.TunnelProtocol_HBONE, true
	case m.Enrolled(p):
		// Only now: whoever reads this dials 15008.
		w.TunnelProtocol = workload.TunnelProtocol_HBONE
	}
	mesh.waypoint(m, p, w, services)
	return workloadResult(p.Key(), w)
}

// waypoint binds a pod to its waypoint. A gateway's own instances have none: what they send is on its way already.
func (mesh Mesh) waypoint(m *model.Model, p *model.Pod, w *workload.Workload, services []*model.Service) {
	if gateway := m.Gateway(p.Gateway()); gateway != nil {
		w.ApplicationTunnel = applicationTunnel(m, gateway)
		return
	}
	b := mesh.bind(m, wish{Wish: model.Wish{Namespace: p.Namespace, Traffic: model.ForWorkload}, own: p.Binding()})
	w.Waypoint = b.waypoint
	w.AuthorizationPolicies = append(w.AuthorizationPolicies, mesh.allowed(m, b, services)...)
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
			if hash := p.Labels.Get(key); hash != "" {
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

// podServices lists the services that the pod is an endpoint of, with its own ports for theirs.
func podServices(m *model.Model, p *model.Pod, selecting []*model.Service) map[string]*workload.PortList {
	services := make(map[string]*workload.PortList)
	for _, s := range selecting {
		services[serviceName(m, s)] = mapPorts(s.Ports, targeted(p.Ports))
	}
	for s, slices := range m.SlicesOf(p) {
		services[serviceName(m, s)] = slicePorts(s, slices...)
	}
	join(m, services, m.EntriesOf(p.Namespace, p.Labels), p.Ports)
	return services
}
