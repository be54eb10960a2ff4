package push

import (
	"iter"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// label is one reason why a waypoint may need a resource.
type label struct {
	why  reason
	name string
}

type reason byte

const (
	bound        reason = iota // a service or a workload, by the waypoint that it names
	behind                     // a service by its name, the workloads behind it, and how those are spoken to
	aboutService               // an L7 resource, by what it is attached to
	aboutGateway
	aboutClass
	inNamespace // an L4 policy
)

// scope says which waypoints need a resource for itself. It doesn't change.
type scope struct {
	// labels: a waypoint that wants one of them needs the resource.
	labels []label
	// grants is what such a waypoint wants in turn. They don't lead further than one step.
	grants []label
}

func (s *scope) labelled() []label {
	if s == nil {
		return nil
	}
	return s.labels
}

// scopeOf reads a message that is no address.
func scopeOf(message proto.Message) *scope {
	switch m := message.(type) {
	case *security.Authorization:
		return &scope{labels: []label{{inNamespace, m.GetNamespace()}}}
	case *l7.Resource:
		return l7Scope(m)
	}
	return nil
}

func l7Scope(m *l7.Resource) *scope {
	s := &scope{}
	of := aboutService
	if m.GetBackendTls() != nil { // which is about where requests go to
		of = behind
	}
	for _, target := range m.GetTargets() {
		switch at := target.GetOf().(type) {
		case *l7.Target_Service:
			s.labels = append(s.labels, label{of, at.Service})
		case *l7.Target_Gateway:
			s.labels = append(s.labels, label{aboutGateway, at.Gateway})
		case *l7.Target_GatewayClass:
			s.labels = append(s.labels, label{aboutClass, at.GatewayClass})
		}
	}
	want := func(ref *l7.BackendRef) {
		if ref.GetService() != "" {
			s.grants = append(s.grants, label{behind, ref.GetService()})
		}
	}
	for _, rule := range m.GetRoute().GetRules() {
		mirrored(rule.GetFilters(), want)
		for _, backend := range rule.GetBackends() {
			want(backend.GetRef())
			mirrored(backend.GetFilters(), want)
		}
	}
	return s
}

func mirrored(filters *l7.Filters, want func(*l7.BackendRef)) {
	for _, mirror := range filters.GetMirrors() {
		want(mirror.GetBackend())
	}
}

// serviceScope is that of a service: its waypoint has it with its workloads, its L7 resources, and the L4 policies of its
// namespace.
func serviceScope(s *workload.Service) *scope {
	waypoints := []*workload.GatewayAddress{s.GetWaypoint()}
	for _, weighted := range s.GetWeightedWaypoints() {
		waypoints = append(waypoints, weighted.GetDestination())
	}
	scope := boundTo(waypoints...)
	if scope != nil {
		name := s.GetNamespace() + "/" + s.GetHostname()
		scope.grants = []label{{behind, name}, {aboutService, name}, {inNamespace, s.GetNamespace()}}
	}
	return scope
}

// boundTo is the scope of what names these waypoints.
func boundTo(waypoints ...*workload.GatewayAddress) *scope {
	var labels []label
	for _, waypoint := range waypoints {
		switch at := waypoint.GetDestination().(type) {
		case *workload.GatewayAddress_Hostname:
			labels = append(labels, label{bound, at.Hostname.GetNamespace() + "/" + at.Hostname.GetHostname()})
		case *workload.GatewayAddress_Address:
			if ip, ok := netip.AddrFromSlice(at.Address.GetAddress()); ok {
				labels = append(labels, label{bound, at.Address.GetNetwork() + "/" + ip.Unmap().String()})
			}
		}
	}
	if len(labels) == 0 {
		return nil
	}
	return &scope{labels: labels}
}

// labelsOf yields every label of an entry: those of its scope, and of addresses the services that they belong to.
func labelsOf(typeURL string, e *entry) iter.Seq[label] {
	return func(yield func(label) bool) {
		for _, one := range e.keys.scope.labelled() {
			if !yield(one) {
				return
			}
		}
		if typeURL != Address || !yield(label{behind, e.name}) {
			return
		}
		for _, service := range e.keys.services {
			if !yield(label{behind, service}) {
				return
			}
		}
	}
}
