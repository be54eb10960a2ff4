package model

// Apply takes changes in and returns the keys of the objects that have to be translated again, each once. Objects that
// went are among them.
func (m *Model) Apply(changes []Change) []Key {
	m.lock.Lock()
	defer m.lock.Unlock()
	d := &dirty{model: m, keys: make(map[Key]struct{})}
	for _, change := range changes {
		// What depends on the old object, then what depends on the new one.
		d.follow(change.Key)
		if change.Object == nil {
			m.drop(change.Key)
		} else {
			m.put(change.Object)
		}
		d.follow(change.Key)
	}
	keys := make([]Key, 0, len(d.keys))
	for key := range d.keys {
		keys = append(keys, key)
	}
	return keys
}

func (m *Model) put(object Object) {
	key := object.Key()
	m.drop(key)
	switch o := object.(type) {
	case *Namespace:
		m.namespaces[o.Name] = o
	case *Node:
		m.nodes[o.Name] = o
	case *Pod:
		m.pods.put(o)
		m.podsByNode.add(o.Node, key.Name)
		m.podsByAccount.add(o.account(), key.Name)
	case *Service:
		m.services.put(o)
	case *EndpointSlice:
		m.slices[key.Name] = o
		m.slicesByService.add(Name{o.Namespace, o.Service}, key.Name)
		for _, endpoint := range o.Endpoints {
			if endpoint.IsPod() {
				m.slicesByPod.add(endpoint.Pod, key.Name)
			} else {
				m.slicesByNode.add(endpoint.Node, key.Name)
			}
		}
	case *AuthorizationPolicy:
		m.policies.put(o)
	case *PeerAuthentication:
		m.peers.put(o)
		if !o.Selected {
			m.peersByLevel.add(o.Namespace, key.Name)
		}
	case *Enrolment:
		m.enrolments[o.Node] = o
	}
}

func (m *Model) drop(key Key) {
	name := key.Name
	switch key.Kind {
	case KindNamespace:
		delete(m.namespaces, name.Name)
	case KindNode:
		delete(m.nodes, name.Name)
	case KindPod:
		if old := m.pods.all[name]; old != nil {
			m.podsByNode.remove(old.Node, name)
			m.podsByAccount.remove(old.account(), name)
		}
		m.pods.drop(name)
	case KindService:
		m.services.drop(name)
	case KindEndpointSlice:
		m.dropSlice(name)
	case KindAuthorizationPolicy:
		m.policies.drop(name)
	case KindPeerAuthentication:
		m.peers.drop(name)
		m.peersByLevel.remove(name.Namespace, name)
	case KindEnrolment:
		delete(m.enrolments, name.Name)
	}
}

func (m *Model) dropSlice(name Name) {
	old := m.slices[name]
	if old == nil {
		return
	}
	m.slicesByService.remove(Name{old.Namespace, old.Service}, name)
	for _, endpoint := range old.Endpoints {
		m.slicesByPod.remove(endpoint.Pod, name)
		m.slicesByNode.remove(endpoint.Node, name)
	}
	delete(m.slices, name)
}

// dirty collects what depends on a change. It reads the model as it is at the moment.
type dirty struct {
	model *Model
	keys  map[Key]struct{}
}

func (d *dirty) mark(key Key) { d.keys[key] = struct{}{} }

func (d *dirty) pod(p *Pod) { d.mark(p.Key()) }

// follow marks the object and all that is translated with a look at it.
func (d *dirty) follow(key Key) {
	m, name := d.model, key.Name
	d.mark(key)
	switch key.Kind {
	case KindNode:
		d.named(KindPod, m.podsByNode[name.Name])
		d.named(KindEndpointSlice, m.slicesByNode[name.Name])
	case KindNamespace:
		d.named(KindService, m.services.byNamespace[name.Name])
	case KindService:
		if service := m.services.all[name]; service != nil && len(service.Selector) > 0 {
			m.pods.selected(name.Namespace, service.Selector, d.pod)
		}
		for slice := range m.slicesByService[name] {
			d.slice(slice)
		}
	case KindEndpointSlice:
		d.slice(name)
	case KindAuthorizationPolicy:
		if policy := m.policies.all[name]; policy != nil && policy.Selected && !policy.Targeted {
			d.selected(name.Namespace, policy.Selector)
		}
	case KindPeerAuthentication:
		d.peer(name)
	case KindEnrolment:
		if enrolment := m.enrolments[name.Name]; enrolment != nil {
			for pod := range enrolment.Pods {
				d.mark(Key{KindPod, pod})
			}
		}
	}
}

func (d *dirty) named(kind Kind, group names) {
	for name := range group {
		d.mark(Key{kind, name})
	}
}

// slice marks a slice, and the pods that belong to the service by nothing but the slice.
func (d *dirty) slice(name Name) {
	d.mark(Key{KindEndpointSlice, name})
	slice := d.model.slices[name]
	if slice == nil {
		return
	}
	service := d.model.services.all[Name{slice.Namespace, slice.Service}]
	if service == nil || len(service.Selector) > 0 {
		return
	}
	for _, endpoint := range slice.Endpoints {
		if endpoint.IsPod() {
			d.mark(Key{KindPod, endpoint.Pod})
		}
	}
}

// selected marks the pods that a policy is about: those of its namespace, or of all if that is the root.
func (d *dirty) selected(namespace string, selector map[string]string) {
	if namespace != d.model.rootNamespace {
		d.model.pods.selected(namespace, selector, d.pod)
		return
	}
	for each := range d.model.pods.byNamespace {
		d.model.pods.selected(each, selector, d.pod)
	}
}

// peer marks what a PeerAuthentication decides: the pods, and the policies made of those that inherit from it.
func (d *dirty) peer(name Name) {
	m := d.model
	d.mark(Key{Kind: KindStaticStrict})
	peer := m.peers.all[name]
	switch {
	case peer == nil:
	case peer.Selected:
		m.pods.selected(name.Namespace, peer.Selector, d.pod)
	default:
		heirs := m.peers.byNamespace
		if name.Namespace != m.rootNamespace {
			heirs = grouping[string]{name.Namespace: heirs[name.Namespace]}
		}
		for _, group := range heirs {
			d.named(KindPeerAuthentication, group)
		}
		d.selected(name.Namespace, nil)
	}
}
