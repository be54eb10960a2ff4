package translate

import (
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// host makes the service that a host name means in a namespace, of whatever it belongs to there.
func (mesh Mesh) host(m *model.Model, host model.Name) Result {
	s, e := m.Owner(host)
	switch {
	case s != nil:
		return one(serviceResource(mesh.service(m, s)))
	case e != nil:
		return one(serviceResource(mesh.entryService(m, e, host.Name)))
	}
	return Result{}
}

func (mesh Mesh) entryService(m *model.Model, e *model.ServiceEntry, host string) *workload.Service {
	out := &workload.Service{
		Name:            e.Name,
		Namespace:       e.Namespace,
		Hostname:        host,
		Addresses:       entryAddresses(m, e, host),
		Ports:           servicePorts(e.Ports),
		SubjectAltNames: e.SANs,
		LoadBalancing:   entryBalancing(m, e),
		Canonical:       m.Canonical(e, host),
	}
	if m.Visibility(e) == model.OwnNamespace {
		out.Visibility = workload.ServiceVisibility_NAMESPACE
	}
	if bindable(e, host) {
		mesh.bind(m, entryWish(m, e)).into(out)
	}
	return out
}

// entryAddresses are those that the entry has, else those that were found for the host.
func entryAddresses(m *model.Model, e *model.ServiceEntry, host string) []*workload.NetworkAddress {
	var list []*workload.NetworkAddress
	for _, vip := range e.VIPs {
		address := &workload.NetworkAddress{Network: m.Network(), Address: vip.Addr().AsSlice()}
		if !vip.IsSingleIP() {
			length := uint32(vip.Bits())
			address.Length = &length
		}
		list = append(list, address)
	}
	if len(list) > 0 {
		return list
	}
	for _, found := range e.Allocated {
		if found.Host == "" || found.Host == host {
			list = append(list, &workload.NetworkAddress{Network: m.Network(), Address: found.IP.AsSlice()})
		}
	}
	return list
}

// entryBalancing sends connections on as they are where the entry has no endpoints of its own.
func entryBalancing(m *model.Model, e *model.ServiceEntry) *workload.LoadBalancing {
	if e.Resolution == model.ResolveNone {
		return &workload.LoadBalancing{Mode: workload.LoadBalancing_PASSTHROUGH, HealthPolicy: workload.LoadBalancing_ALLOW_ALL}
	}
	return preference(distribution(m, e.Namespace, e.TrafficDistribution))
}

func entryWish(m *model.Model, e *model.ServiceEntry) wish {
	return wish{Wish: m.EntryWish(e), own: e.Binding}
}

// bindEntry binds an entry as a whole, and says to which of its hosts that doesn't apply.
func (mesh Mesh) bindEntry(m *model.Model, e *model.ServiceEntry) bound {
	b := mesh.bind(m, entryWish(m, e))
	if b.condition != nil {
		for _, host := range e.Hosts {
			if !bindable(e, host) {
				b.condition = &model.Condition{
					Type: model.WaypointBound, Reason: unsupportedTraffic,
					Message: "connections to host " + host + " pass no waypoint: that needs resolution DYNAMIC_DNS",
				}
			}
		}
	}
	return b
}

// bindable tells whether a waypoint could find out which host is meant.
func bindable(e *model.ServiceEntry, host string) bool {
	return !isWildcard(host) || e.Resolution == model.ResolveDynamic
}

// wildcardCondition says of an entry that only a waypoint could resolve that it has none.
func wildcardCondition(e *model.ServiceEntry, b bound) *model.Condition {
	if e.Resolution != model.ResolveDynamic || b.waypoint != nil {
		return nil
	}
	return &model.Condition{
		Type: model.WaypointMissing, Reason: noWildcardWaypoint,
		Message: "resolution DYNAMIC_DNS needs a waypoint, which sees the host that a client means: label the ServiceEntry istio.io/use-waypoint",
	}
}

// visibilityCondition says who sees an entry, where the mesh config has a say in that.
func visibilityCondition(m *model.Model, e *model.ServiceEntry) *model.Condition {
	if config := m.MeshConfig(); config == nil || config.EntryVisibility == nil {
		return nil
	}
	c := &model.Condition{Type: model.VisibilityApplied, Status: true}
	switch m.Visibility(e) {
	case model.Public:
		c.Reason, c.Message = "Public", "the mesh config makes it visible from every namespace"
	case model.OwnNamespace:
		c.Reason, c.Message = "Namespace", "the mesh config makes it visible from its own namespace only"
	default:
		c.Reason, c.Message = "None", "the mesh config makes it visible from nowhere: it has no effect"
	}
	return c
}

// into writes the waypoint into a service.
func (b bound) into(s *workload.Service) {
	s.Waypoint, s.WeightedWaypoints, s.IngressUseWaypoint = b.waypoint, b.weighted, b.ingress
}
