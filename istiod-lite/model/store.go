package model

import "reflect"

// change takes one change in. What depends on the old object is marked, then what depends on the new one.
func (m *Model) change(change Change, d *dirty) {
	object := change.Object
	if !m.ours(object) {
		object = nil
	}
	old := m.Object(change.Key)
	if old == nil && object == nil || reflect.DeepEqual(old, object) {
		return
	}
	before := m.facts()
	d.follow(change.Key)
	d.claims(change.Key, old)
	d.claims(change.Key, object)
	if old != nil {
		m.drop(old)
	}
	if object != nil {
		m.put(object)
	}
	m.reveal(change.Key)
	d.follow(change.Key)
	d.room(old)
	d.room(object)
	if m.facts() != before {
		d.everything()
	}
}

// Object returns the object that the key names, or nil.
func (m *Model) Object(key Key) Object {
	name := key.Name
	switch key.Kind {
	case KindMeshConfig:
		if m.config != nil && m.config.Key() == key {
			return m.config
		}
		return nil
	case KindNamespace:
		return orNil(m.namespaces[name.Name])
	case KindNode:
		return orNil(m.nodes[name.Name])
	case KindPod:
		return orNil(m.pods.get(name))
	case KindService:
		return orNil(m.services.all[name])
	case KindEndpointSlice:
		return orNil(m.slices[name])
	case KindServiceEntry:
		return orNil(m.serviceEntries.all[name])
	case KindWorkloadEntry:
		return orNil(m.workloadEntries.get(name))
	case KindGateway:
		return orNil(m.gateways[name])
	case KindGatewayClass:
		return orNil(m.classes[name.Name])
	case KindAuthorizationPolicy:
		return orNil(m.policies.all[name])
	case KindPeerAuthentication:
		return orNil(m.peers.all[name])
	case KindEnrolment:
		return orNil(m.enrolments[name.Name])
	}
	return m.routing.object(key)
}

// orNil makes an interface of a pointer that may be nil, which then is nil too.
func orNil[T any, P interface {
	*T
	Object
}](object P) Object {
	if object == nil {
		return nil
	}
	return object
}

// Generation is that of the object's spec, for statuses; 0 where it isn't known.
func (m *Model) Generation(key Key) int64 {
	switch o := m.Object(key).(type) {
	case *Service:
		return o.Generation
	case *ServiceEntry:
		return o.Generation
	case *WorkloadEntry:
		return o.Generation
	case *Gateway:
		return o.Generation
	case *GatewayClass:
		return o.Generation
	case *AuthorizationPolicy:
		return o.Generation
	case *Route:
		return o.Generation
	case *RequestAuthentication:
		return o.Generation
	case *BackendTLSPolicy:
		return o.Generation
	}
	return 0
}

// Count tells how many objects of the kind there are.
func (m *Model) Count(kind Kind) int {
	switch kind {
	case KindNamespace:
		return len(m.namespaces)
	case KindNode:
		return len(m.nodes)
	case KindPod:
		return m.pods.count
	case KindService:
		return len(m.services.all)
	case KindEndpointSlice:
		return len(m.slices)
	case KindServiceEntry:
		return len(m.serviceEntries.all)
	case KindWorkloadEntry:
		return m.workloadEntries.count
	case KindGateway:
		return len(m.gateways)
	case KindGatewayClass:
		return len(m.classes)
	case KindAuthorizationPolicy:
		return len(m.policies.all)
	case KindPeerAuthentication:
		return len(m.peers.all)
	case KindEnrolment:
		return len(m.enrolments)
	}
	return m.routing.count(kind)
}

// put stores an object whose name is free.
func (m *Model) put(object Object) {
	switch o := object.(type) {
	case *MeshConfig:
		m.config = o
	case *Namespace:
		m.namespaces[o.Name] = o
	case *Node:
		m.nodes[o.Name] = o
	case *Pod:
		m.pods.put(o)
	case *Service:
		m.services.put(o)
	case *EndpointSlice:
		m.slices[o.Key().Name] = o
	case *ServiceEntry:
		m.serviceEntries.put(o)
	case *WorkloadEntry:
		m.workloadEntries.put(o)
	case *Gateway:
		m.gateways[o.Key().Name] = o
	case *GatewayClass:
		m.classes[o.Name] = o
	case *AuthorizationPolicy:
		m.policies.put(o)
	case *PeerAuthentication:
		m.peers.put(o)
	case *Enrolment:
		m.enrolments[o.Node] = o
	}
	m.index(object, true)
}

// drop takes out an object that is there.
func (m *Model) drop(object Object) {
	m.index(object, false)
	name := object.Key().Name
	switch o := object.(type) {
	case *MeshConfig:
		m.config = nil
	case *Namespace:
		delete(m.namespaces, o.Name)
	case *Node:
		delete(m.nodes, o.Name)
	case *Pod:
		m.pods.drop(o)
	case *Service:
		m.services.drop(o)
	case *EndpointSlice:
		delete(m.slices, name)
	case *ServiceEntry:
		m.serviceEntries.drop(o)
	case *WorkloadEntry:
		m.workloadEntries.drop(o)
	case *Gateway:
		delete(m.gateways, name)
	case *GatewayClass:
		delete(m.classes, o.Name)
	case *AuthorizationPolicy:
		m.policies.drop(o)
	case *PeerAuthentication:
		m.peers.drop(o)
	case *Enrolment:
		delete(m.enrolments, o.Node)
	}
}

// index notes by what the object is found, or forgets that.
func (m *Model) index(object Object, there bool) {
	key := object.Key()
	m.routing.set(object, there)
	switch o := object.(type) {
	case *Namespace:
		m.bind(key, o.Binding, there)
	case *Pod:
		m.podsByNode.set(o.Node, o, there)
		m.bind(key, o.Binding(), there)
	case *Service:
		m.bind(key, o.Binding, there)
	case *EndpointSlice:
		m.indexSlice(o, there)
	case *ServiceEntry:
		m.bind(key, o.Binding, there)
		public := there && m.Visibility(o) == Public
		for _, host := range o.Hosts {
			m.entriesByHost.set(Name{o.Namespace, host}, o, there)
			m.publicByHost.set(host, o, public)
		}
		for network := range o.networks {
			m.byNetwork.set(network, key, there)
		}
	case *WorkloadEntry:
		m.bind(key, o.Binding, there)
		if o.Network != "" {
			m.byNetwork.set(o.Network, key, there)
		}
	case *Gateway:
		m.gatewaysByClass.set(o.Class, o, there)
		m.gatewaysIn.set(o.Namespace, o, there)
		m.gatewaysByService.set(o.Deployed(), o, there)
		if o.Network != "" {
			m.gatewaysByNetwork.set(o.Network, o, there)
		}
	case *PeerAuthentication:
		if !o.Selected {
			m.peersByLevel.set(o.Namespace, o, there)
		}
	}
}

func (m *Model) indexSlice(slice *EndpointSlice, there bool) {
	m.slicesByService.set(Name{slice.Namespace, slice.Service}, slice, there)
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.IsPod() {
			m.slicesByPod.set(podID{e.Pod, e.PodUID}, slice, there)
		} else {
			m.slicesByNode.set(e.Node, slice, there)
		}
	}
}

// bind notes which waypoints an object names by its own labels.
func (m *Model) bind(key Key, binding *Binding, there bool) {
	if binding == nil {
		return
	}
	for waypoint := range binding.waypoints {
		m.bound.set(waypoint, key, there)
	}
	if key.Kind == KindPod || key.Kind == KindWorkloadEntry {
		m.boundIn.set(key.Namespace, key, there)
	}
}
