package fakeistiod

import (
	"maps"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// interest is what a client wants of a type: everything, or what has certain names or aliases, with all workloads of
// services among that.
type interest struct {
	all   bool
	names map[string]bool
}

// change takes in a request. asked are the names to be answered.
func (i *interest) change(first bool, request *discoveryv3.DeltaDiscoveryRequest) (asked []string) {
	if first {
		i.names, i.all = map[string]bool{}, len(request.GetResourceNamesSubscribe()) == 0
	}
	for _, name := range request.GetResourceNamesSubscribe() {
		if name == "*" {
			i.all = true
		} else if !i.names[name] { // as the real one, which doesn't answer what it thinks to have answered
			i.names[name] = true
			asked = append(asked, name)
		}
	}
	for _, name := range request.GetResourceNamesUnsubscribe() {
		if name == "*" {
			i.all = false
		}
		delete(i.names, name)
	}
	return asked
}

// answerLocked answers names that were asked for, and subscribes to what that brings along.
func (s *Server) answerLocked(st *stream, typeURL string, asked []string) *discoveryv3.DeltaDiscoveryResponse {
	push := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL}
	found := map[string]bool{}
	for _, name := range asked {
		there := false
		for _, resource := range s.resources[typeURL] {
			if resource.GetName() == name || slices.Contains(resource.GetAliases(), name) {
				there, found[resource.GetName()] = true, true
				s.workloadsLocked(resource.GetName(), found)
			}
		}
		if !there {
			push.RemovedResources = append(push.RemovedResources, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		push.Resources = append(push.Resources, s.resources[typeURL][name])
		st.known[typeURL][name] = s.resources[typeURL][name].GetVersion()
		st.wants[typeURL].names[name] = true
	}
	return push
}

// workloadsLocked adds the workloads of a service, if it is one.
func (s *Server) workloadsLocked(service string, to map[string]bool) {
	for name, resource := range s.resources[addressType] {
		if _, behind := services(resource)[service]; behind {
			to[name] = true
		}
	}
}

// wantedLocked tells whether a client that asks by name should have a resource which has changed.
func (s *Server) wantedLocked(st *stream, typeURL, name string) bool {
	i := st.wants[typeURL]
	if i.all || i.names[name] {
		return true
	}
	resource := s.resources[typeURL][name]
	for _, alias := range resource.GetAliases() {
		if i.names[alias] {
			return true
		}
	}
	for service := range services(resource) {
		if i.names[service] {
			return true
		}
	}
	return false
}

const addressType = "type.googleapis.com/istio.workload.Address"

// services are those of a workload, if the resource is one.
func services(resource *discoveryv3.Resource) map[string]*workload.PortList {
	address := new(workload.Address)
	if resource.GetResource().GetTypeUrl() != addressType || proto.Unmarshal(resource.GetResource().GetValue(), address) != nil {
		return nil
	}
	return address.GetWorkload().GetServices()
}
