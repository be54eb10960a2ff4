package model

import (
	"iter"
	"maps"
)

// All yields the objects of a kind, in no order.
func (m *Model) All(kind Kind) iter.Seq[Object] {
	switch kind {
	case KindMeshConfig:
		return objects(func(yield func(*MeshConfig) bool) {
			if m.config != nil {
				yield(m.config)
			}
		})
	case KindNamespace:
		return objects(maps.Values(m.namespaces))
	case KindNode:
		return objects(maps.Values(m.nodes))
	case KindPod:
		return objects(m.pods.each())
	case KindService:
		return objects(maps.Values(m.services.all))
	case KindEndpointSlice:
		return objects(maps.Values(m.slices))
	case KindServiceEntry:
		return objects(maps.Values(m.serviceEntries.all))
	case KindWorkloadEntry:
		return objects(m.workloadEntries.each())
	case KindGateway:
		return objects(maps.Values(m.gateways))
	case KindGatewayClass:
		return objects(maps.Values(m.classes))
	case KindAuthorizationPolicy:
		return objects(maps.Values(m.policies.all))
	case KindPeerAuthentication:
		return objects(maps.Values(m.peers.all))
	case KindEnrolment:
		return objects(maps.Values(m.enrolments))
	}
	return m.routing.all(kind)
}

func objects[T Object](of iter.Seq[T]) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for object := range of {
			if !yield(object) {
				return
			}
		}
	}
}

// each yields all of the objects.
func (l *labelled[T]) each() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, in := range l.spaces {
			for _, object := range in.all {
				if !yield(object) {
					return
				}
			}
		}
	}
}
