package translate

import (
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// endpoints makes a workload of each address of a slice that isn't a pod's: something outside of the mesh that a service
// without a selector stands for.
func (mesh Mesh) endpoints(m *model.Model, slice *model.EndpointSlice) Result {
	var result Result
	s := m.Service(model.Name{Namespace: slice.Namespace, Name: slice.Service})
	if s == nil {
		return result
	}
	seen := make(map[string]bool)
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if e.IsPod() {
			continue
		}
		for _, ip := range e.Addresses {
			uid := mesh.ClusterID + "/discovery.k8s.io/EndpointSlice/" + slice.Namespace + "/" + slice.Name + "/" + ip.String()
			if seen[uid] {
				continue
			}
			seen[uid] = true
			w := mesh.endpoint(m, s, slice, e)
			w.Uid, w.Addresses = uid, [][]byte{ip.AsSlice()}
			result.Resources = append(result.Resources, workloadResource(w))
		}
	}
	return result
}

func (mesh Mesh) endpoint(m *model.Model, s *model.Service, slice *model.EndpointSlice, e *model.Endpoint) *workload.Workload {
	w := &workload.Workload{
		Name:              slice.Name,
		Namespace:         slice.Namespace,
		TrustDomain:       trustDomain(m),
		Node:              e.Node,
		CanonicalName:     slice.Service,
		CanonicalRevision: "latest",
		WorkloadType:      workload.WorkloadType_POD,
		WorkloadName:      slice.Service,
		Services: map[string]*workload.PortList{
			serviceName(m, s): {Ports: slicePorts(s, slice)},
		},
		ClusterId: mesh.ClusterID,
		Network:   m.Network(),
		Locality:  nodeLocality(m, e.Node),
		// Many may share an address, so it names none of them.
		NetworkMode: workload.NetworkMode_HOST_NETWORK,
	}
	if w.Locality == nil && e.Zone != "" {
		w.Locality = &workload.Locality{Zone: e.Zone}
	}
	if !e.Ready {
		w.Status = workload.WorkloadStatus_UNHEALTHY
	}
	return w
}

// slicePorts joins the ports of a service and of a slice by their names.
func slicePorts(s *model.Service, slice *model.EndpointSlice) []*workload.Port {
	var list []*workload.Port
	for _, port := range s.Ports {
		for _, target := range slice.Ports {
			if target.Name == port.Name {
				list = append(list, &workload.Port{ServicePort: uint32(port.Port), TargetPort: uint32(target.Port)})
				break
			}
		}
	}
	return list
}
