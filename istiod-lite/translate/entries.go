package translate

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// workloadEntry makes the workload of something outside of Kubernetes that has an own object.
func (mesh Mesh) workloadEntry(m *model.Model, e *model.WorkloadEntry) Result {
	services := m.ServicesOf(e.Namespace, e.Labels)
	b := mesh.bind(m, wish{Wish: model.Wish{Namespace: e.Namespace, Traffic: model.ForWorkload}, own: e.Binding})
	w := mesh.outside(m, e.Namespace, e.Name, &e.EntryEndpoint)
	w.Uid = mesh.ClusterID + "/networking.istio.io/WorkloadEntry/" + e.Namespace + "/" + e.Name
	w.Services = make(map[string]*workload.PortList)
	for _, s := range services {
		w.Services[serviceName(m, s)] = mapPorts(s.Ports, sameName(e.Ports), targeted(e.Ports))
	}
	join(m, w.Services, m.EntriesOf(e.Namespace, e.Labels), e.Ports)
	w.Waypoint = b.waypoint
	w.AuthorizationPolicies = append(w.AuthorizationPolicies, mesh.allowed(m, b, services)...)
	var result Result
	if isSocket(e.Host) {
		result.note(e.Key(), "a socket in a file system can't be reached over the network: nothing is published")
	} else {
		result = workloadResult(e.Key(), w)
	}
	result.Conditions = conditions(b.condition)
	return result
}

// outside begins a workload that isn't a pod.
func (mesh Mesh) outside(m *model.Model, namespace, name string, e *model.EntryEndpoint) *workload.Workload {
	w := &workload.Workload{
		Name:                  name,
		Namespace:             namespace,
		TrustDomain:           trustDomain(m),
		WorkloadType:          workload.WorkloadType_POD,
		WorkloadName:          name,
		AuthorizationPolicies: mesh.policiesOf(m, namespace, e.Labels),
		ClusterId:             mesh.ClusterID,
	}
	w.CanonicalName, w.CanonicalRevision = canonical(e.Labels, name)
	place(m, w, e)
	return w
}

// isSocket tells whether an endpoint is a file.
func isSocket(host string) bool { return strings.HasPrefix(host, "unix://") }

// entry makes the workloads of a ServiceEntry's own endpoints. Its services are made host by host, since others may claim
// the same; endpoints only count for the hosts that are its own.
func (mesh Mesh) entry(m *model.Model, e *model.ServiceEntry) Result {
	b := mesh.bindEntry(m, e)
	result := Result{Conditions: conditions(b.condition, wildcardCondition(e, b), visibilityCondition(m, e), roomCondition(m, e.Key()))}
	if e.Exported {
		result.note(e.Key(), "exportTo is not heeded in ambient mode: set serviceEntryVisibility in the mesh config to say who sees the service")
	}
	var hosts []string
	for _, host := range e.Hosts {
		if m.Owns(e, host) {
			hosts = append(hosts, host)
		} else if m.Visibility(e) != model.Nobody {
			result.note(e.Key(), "host "+host+" belongs to a Service, or to an older ServiceEntry, of the namespace")
		}
	}
	seen := make(map[string]bool)
	for _, endpoint := range endpointsOf(e, hosts) {
		at := nameOf(&endpoint.EntryEndpoint)
		if isSocket(at) || seen[at] {
			result.note(e.Key(), "endpoint "+at+" is left out: each needs a network address of its own")
			continue
		}
		seen[at] = true
		one := workloadResult(e.Key(), mesh.entryWorkload(m, e, &endpoint))
		result.Resources, result.Notes = append(result.Resources, one.Resources...), append(result.Notes, one.Notes...)
	}
	if more := len(result.Notes) - maxNotes; more > 0 {
		result.Notes = append(result.Notes[:maxNotes], Note{e.Key(), fmt.Sprintf("%d more hosts or endpoints are like these", more)})
	}
	return result
}

// hosted is an endpoint with the hosts that it serves.
type hosted struct {
	model.EntryEndpoint
	hosts []string
}

// endpointsOf are the endpoints that an entry lists; where DNS knows them and none is listed, the hosts themselves.
func endpointsOf(e *model.ServiceEntry, hosts []string) []hosted {
	var list []hosted
	if len(hosts) == 0 || e.Resolution == model.ResolveNone {
		return nil
	}
	if e.Resolution != model.ResolveDynamic {
		for i := range e.Endpoints {
			list = append(list, hosted{e.Endpoints[i], hosts})
		}
	}
	if len(list) == 0 && !e.Selected && e.Resolution != model.ResolveStatic {
		for _, host := range hosts {
			list = append(list, hosted{model.EntryEndpoint{Host: host}, []string{host}})
		}
	}
	return list
}

// nameOf tells an endpoint from its siblings.
func nameOf(e *model.EntryEndpoint) string {
	switch {
	case e.IP.IsValid():
		return e.IP.String()
	case e.Host != "":
		return e.Host
	}
	return e.Network
}

func (mesh Mesh) entryWorkload(m *model.Model, e *model.ServiceEntry, endpoint *hosted) *workload.Workload {
	w := mesh.outside(m, e.Namespace, e.Name, &endpoint.EntryEndpoint)
	w.Uid = mesh.ClusterID + "/networking.istio.io/ServiceEntry/" + e.Namespace + "/" + e.Name + "/" + nameOf(&endpoint.EntryEndpoint)
	w.Services = make(map[string]*workload.PortList)
	ports := mapPorts(e.Ports, sameName(endpoint.Ports), targeted(nil)) // shared by the hosts, however many there are
	for _, host := range endpoint.hosts {
		w.Services[e.Namespace+"/"+host] = ports
	}
	wanted := entryWish(m, e)
	wanted.Traffic, wanted.part = model.ForWorkload, true
	w.Waypoint = mesh.bind(m, wanted).waypoint
	return w
}
