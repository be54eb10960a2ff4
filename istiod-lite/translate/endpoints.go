package translate

import (
	"fmt"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// maxEndpointPorts bounds what one slice becomes: the ports of each address.
const maxEndpointPorts = 200_000

// endpoints makes a workload of each address of a slice that isn't a pod's: something outside of the mesh that a service
// without a selector stands for.
func (mesh Mesh) endpoints(m *model.Model, slice *model.EndpointSlice) Result {
	var result Result
	s := m.Service(model.Name{Namespace: slice.Namespace, Name: slice.Service})
	if s == nil || s.TooLarge() {
		return result
	}
	ports := slicePorts(s, slice) // shared by the endpoints, however many there are
	if all := len(ports.Ports) * addressesOf(slice); all > maxEndpointPorts {
		result.note(slice.Key(), fmt.Sprintf("its addresses have %d ports together, and one slice at most %d: they are left out, divide it", all, maxEndpointPorts))
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
			w := mesh.endpoint(m, slice, e)
			w.Uid, w.Addresses = uid, [][]byte{ip.AsSlice()}
			w.Services = map[string]*workload.PortList{serviceName(m, s): ports}
			result.Resources = append(result.Resources, workloadResource(w))
		}
	}
	return result
}

// addressesOf counts those that aren't pods.
func addressesOf(slice *model.EndpointSlice) int {
	count := 0
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; !e.IsPod() {
			count += len(e.Addresses)
		}
	}
	return count
}

func (mesh Mesh) endpoint(m *model.Model, slice *model.EndpointSlice, e *model.Endpoint) *workload.Workload {
	w := &workload.Workload{
		Name:              slice.Name,
		Namespace:         slice.Namespace,
		TrustDomain:       trustDomain(m),
		Node:              e.Node,
		CanonicalName:     slice.Service,
		CanonicalRevision: "latest",
		WorkloadType:      workload.WorkloadType_POD,
		WorkloadName:      slice.Service,
		ClusterId:         mesh.ClusterID,
		Network:           m.Network(),
		Locality:          nodeLocality(m, e.Node),
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

// slicePorts joins the ports of a service and of slices by their names. Where slices differ, the first one counts.
func slicePorts(s *model.Service, slices ...*model.EndpointSlice) *workload.PortList {
	named := make(map[string]uint16)
	for _, slice := range slices {
		for _, port := range slice.Ports {
			if _, known := named[port.Name]; !known {
				named[port.Name] = port.Port
			}
		}
	}
	return mapPorts(s.Ports, func(p *model.ServicePort) uint16 { return named[p.Name] })
}
