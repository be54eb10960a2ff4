package fakeistiod

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

const (
	podsPerService      = 10
	servicesPerCity     = 50  // a namespace of the world
	podsPerNode         = 100 // so that most pods of a service are on different nodes
	servicesPerSelector = 5   // of which one has a policy of its own
)

// World returns a mesh as large ones are: so many pods, ten behind each service, which are endpoints of up to three
// services, in namespaces of fifty services, with a policy for each namespace and each fifth service.
func World(pods int) []proto.Message {
	var world []proto.Message
	for s := range (pods + podsPerService - 1) / podsPerService {
		if s%servicesPerCity == 0 {
			world = append(world, worldPolicy(city(s), "namespace", security.Scope_NAMESPACE))
		}
		if s%servicesPerSelector == 0 {
			world = append(world, worldPolicy(city(s), app(s), security.Scope_WORKLOAD_SELECTOR))
		}
		world = append(world, worldService(s))
	}
	for i := range pods {
		world = append(world, WorldPod(i))
	}
	return world
}

func city(service int) string { return fmt.Sprintf("team-%03d", service/servicesPerCity) }

func app(service int) string { return fmt.Sprintf("checkout-%05d", service) }

func host(service int) string { return app(service) + "." + city(service) + ".svc.cluster.local" }

// WorldPod returns the pod of that number. Its address is 10.x.x.x with the number in it.
func WorldPod(i int) *workload.Workload {
	s := i / podsPerService
	name := fmt.Sprintf("%s-7d9f8b6c5d-%05x", app(s), i)
	ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	w := &workload.Workload{
		Uid: "Kubernetes//Pod/" + city(s) + "/" + name, Name: name, Namespace: city(s), Addresses: [][]byte{ip.AsSlice()},
		TunnelProtocol: workload.TunnelProtocol_HBONE, ServiceAccount: app(s), ClusterId: "Kubernetes",
		Node:          fmt.Sprintf("ip-10-0-%d.eu-central-1.compute.internal", i%(podsPerNode*podsPerService)),
		CanonicalName: app(s), CanonicalRevision: "v1", WorkloadName: app(s), WorkloadType: workload.WorkloadType_POD,
		Locality: &workload.Locality{Region: "eu-central-1", Zone: fmt.Sprintf("eu-central-1%c", 'a'+i%3)},
		Services: map[string]*workload.PortList{},
	}
	for n, other := range []int{s, s/servicesPerCity*servicesPerCity + (s+1)%servicesPerCity, s/servicesPerCity*servicesPerCity + (s+7)%servicesPerCity} {
		if i%(1<<n) == 0 {
			w.Services[city(other)+"/"+host(other)] = &workload.PortList{Ports: []*workload.Port{
				{ServicePort: 80, TargetPort: 8080}, {ServicePort: 9090, TargetPort: 9090},
			}}
		}
	}
	if s%servicesPerSelector == 0 {
		w.AuthorizationPolicies = []string{city(s) + "/" + app(s)}
	}
	return w
}

func worldService(s int) *workload.Service {
	vip := netip.AddrFrom4([4]byte{172, 16 + byte(s>>16), byte(s >> 8), byte(s)})
	return &workload.Service{
		Name: app(s), Namespace: city(s), Hostname: host(s), Canonical: true,
		Addresses: []*workload.NetworkAddress{{Address: vip.AsSlice()}},
		Ports:     []*workload.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 9090, TargetPort: 9090}},
	}
}

func worldPolicy(namespace, name string, scope security.Scope) *security.Authorization {
	var principals []*security.StringMatch
	for i := range 5 {
		principals = append(principals, &security.StringMatch{MatchType: &security.StringMatch_Exact{
			Exact: fmt.Sprintf("cluster.local/ns/%s/sa/client-%d", namespace, i),
		}})
	}
	return &security.Authorization{
		Namespace: namespace, Name: name, Scope: scope, Action: security.Action_DENY,
		Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{{Principals: principals}}}}}},
	}
}
