package model

// dirty collects what depends on a change. It reads the model as it is at the moment.
type dirty struct {
	model *Model
	keys  map[Key]struct{}
	// parents are the gateways of marked routes, whose status tells how many there are. What else depends on a gateway
	// doesn't depend on that.
	parents map[Key]struct{}
	// crowds are those of which others may be late now.
	crowds map[crowd]struct{}
	// owners and canonical are the hosts whose meaning may be another now, with the ServiceEntry that gave it before: in a
	// namespace, and to clients of others. Without a name there was none.
	owners    map[Name]Name
	canonical map[string]Name
}

func newDirty(m *Model) *dirty {
	return &dirty{
		model: m, keys: make(map[Key]struct{}), parents: make(map[Key]struct{}), crowds: make(map[crowd]struct{}),
		owners: make(map[Name]Name), canonical: make(map[string]Name),
	}
}

// mark marks what is translated again. What routes and policies say of it may be something else then, too.
func (d *dirty) mark(key Key) {
	d.model.routing.gateways(key, func(gateway Key) { d.parents[gateway] = struct{}{} })
	if _, marked := d.keys[key]; !marked {
		d.keys[key] = struct{}{}
		d.model.routing.users(key, d.mark)
	}
}

// follow marks the object and all that is translated with a look at it.
func (d *dirty) follow(key Key) {
	d.mark(key)
	d.model.routing.follow(key, d.mark)
	switch o := d.model.Object(key).(type) {
	case *Node:
		d.node(o.Name)
	case *Namespace:
		d.namespace(o)
	case *Pod:
		if gateway := o.Gateway(); gateway.Name != "" {
			d.mark(Key{KindGateway, gateway})
		}
	case *Service:
		d.service(o)
	case *EndpointSlice:
		d.slice(o)
	case *ServiceEntry:
		d.entry(o)
	case *Gateway:
		d.gateway(o)
	case *GatewayClass:
		for gateway := range d.model.gatewaysByClass.of(o.Name) {
			d.mark(gateway.Key())
			d.gateway(gateway)
		}
	case *AuthorizationPolicy:
		d.crowding()
		if o.Selected && !o.Targeted {
			d.selected(o.Namespace, o.Selector)
		}
	case *PeerAuthentication:
		d.peer(o)
	case *Enrolment:
		for pod := range o.Pods {
			d.mark(Key{KindPod, pod})
		}
	default:
		d.absent(key)
	}
}

// absent marks what depends on an object just because it isn't there.
func (d *dirty) absent(key Key) {
	switch key.Kind {
	case KindNode:
		d.node(key.Name.Name)
	case KindGateway:
		d.users(key.Name, true)
	case KindGatewayClass:
		for gateway := range d.model.gatewaysByClass.of(key.Name.Name) {
			d.gateway(gateway)
		}
	case KindService:
		d.slices(key.Name)
	case KindAuthorizationPolicy:
		d.crowding()
	}
}

// crowding marks what is only there while there are so many policies that they could be too many for a workload.
func (d *dirty) crowding() {
	if len(d.model.policies.all) >= MaxPolicies {
		d.mark(Key{Kind: KindStaticStrict})
	}
}

func (d *dirty) node(name string) {
	for pod := range d.model.podsByNode.of(name) {
		d.mark(pod.Key())
	}
	for slice := range d.model.slicesByNode.of(name) {
		d.mark(slice.Key())
	}
}

// namespace marks its services, and the workloads of which some depend on its labels: which waypoint they get, and
// whether that admits them.
func (d *dirty) namespace(n *Namespace) {
	d.services(n.Name)
	for gateway := range d.model.gatewaysIn.of(n.Name) {
		d.mark(gateway.Key()) // whose it is, by the namespace's label
	}
	for key := range d.model.boundIn.of(n.Name) {
		d.mark(key)
	}
	if n.Binding.Decides() {
		d.workloads(n.Name)
	}
}

// services marks the services of a namespace.
func (d *dirty) services(namespace string) {
	m := d.model
	for s := range m.services.byNamespace.of(namespace) {
		d.binding(s)
	}
	for e := range m.serviceEntries.byNamespace.of(namespace) {
		d.entry(e)
	}
}

// workloads marks the workloads of a namespace.
func (d *dirty) workloads(namespace string) {
	d.selected(namespace, Labels{})
}

func (d *dirty) service(s *Service) {
	m := d.model
	d.mark(Key{KindHost, Name{s.Namespace, m.Hostname(s)}})
	if !s.Selector.Empty() {
		d.chosen(s.Namespace, s.Selector)
	}
	d.slices(s.Key().Name)
	for gateway := range m.gatewaysByService.of(s.Key().Name) {
		d.mark(gateway.Key())
	}
}

func (d *dirty) slices(service Name) {
	for slice := range d.model.slicesByService.of(service) {
		d.slice(slice)
	}
}

// slice marks a slice, and the pods that belong to the service by nothing but the slice.
func (d *dirty) slice(slice *EndpointSlice) {
	d.mark(slice.Key())
	service := d.model.services.all[Name{slice.Namespace, slice.Service}]
	if service == nil || !service.Selector.Empty() {
		return
	}
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.IsPod() {
			d.mark(Key{KindPod, e.Pod})
		}
	}
}

// entry marks a ServiceEntry, its hosts, and the workloads that it chooses.
func (d *dirty) entry(e *ServiceEntry) {
	for _, host := range e.Hosts {
		d.mark(Key{KindHost, Name{e.Namespace, host}})
	}
	d.choosing(e)
}

// choosing marks a ServiceEntry, and the workloads that it chooses.
func (d *dirty) choosing(e *ServiceEntry) {
	d.mark(e.Key())
	if e.Selected {
		d.chosen(e.Namespace, e.Selector)
	}
}

// gateway marks what is sent through a gateway, or might be, and its instances.
func (d *dirty) gateway(g *Gateway) {
	m := d.model
	name := g.Key().Name
	d.users(name, m.Takes(g).Takes(ForWorkload))
	for pod := range m.pods.selected(g.Namespace, gatewayLabels(g.Name)) {
		d.mark(pod.Key())
	}
	if g.Network != "" {
		d.mark(Key{KindNetwork, Name{Name: g.Network}})
		for key := range m.byNetwork.of(g.Network) {
			d.mark(key)
		}
	}
}

// users marks what names a waypoint; workloads of namespaces that name it only if that matters to them.
func (d *dirty) users(waypoint Name, workloads bool) {
	m := d.model
	for key := range m.bound.of(waypoint) {
		switch o := m.Object(key).(type) {
		case *Namespace:
			d.services(o.Name)
			if workloads {
				d.workloads(o.Name)
			}
		case *Service:
			d.binding(o)
		case *ServiceEntry:
			d.entry(o)
		default:
			d.mark(key)
		}
	}
}

// binding marks what depends on the waypoint of a service.
func (d *dirty) binding(s *Service) {
	d.mark(s.Key())
	d.mark(Key{KindHost, Name{s.Namespace, d.model.Hostname(s)}})
	if d.model.settings.AllowWaypoints && !s.Selector.Empty() {
		d.chosen(s.Namespace, s.Selector)
	}
}

// chosen marks the workloads of a namespace that a service chooses.
func (d *dirty) chosen(namespace string, selector Labels) {
	for pod := range d.model.pods.selected(namespace, selector) {
		d.mark(pod.Key())
	}
	for entry := range d.model.workloadEntries.selected(namespace, selector) {
		d.mark(entry.Key())
	}
}

// selected marks the workloads that a policy is about: those of its namespace, or of all if that is the root.
func (d *dirty) selected(namespace string, selector Labels) {
	m := d.model
	if namespace != m.RootNamespace() {
		d.about(namespace, selector)
		return
	}
	for each := range m.pods.spaces {
		d.about(each, selector)
	}
	for each := range m.workloadEntries.spaces {
		d.about(each, selector)
	}
	for each := range m.serviceEntries.byNamespace {
		d.about(each, selector)
	}
}

func (d *dirty) about(namespace string, selector Labels) {
	d.chosen(namespace, selector)
	for e := range d.model.serviceEntries.byNamespace.of(namespace) {
		if e.hasEndpoint(selector) {
			d.mark(e.Key())
		}
	}
}

// peer marks what a PeerAuthentication decides: the workloads, and the policies made of those that inherit from it.
func (d *dirty) peer(p *PeerAuthentication) {
	m := d.model
	d.mark(Key{Kind: KindStaticStrict})
	if p.Selected {
		d.about(p.Namespace, p.Selector)
		return
	}
	if p.Namespace == m.RootNamespace() {
		for each := range m.peers.byNamespace {
			d.heirs(each)
		}
	} else {
		d.heirs(p.Namespace)
	}
	d.selected(p.Namespace, Labels{})
}

func (d *dirty) heirs(namespace string) {
	for heir := range d.model.peers.byNamespace.of(namespace) {
		d.mark(heir.Key())
	}
}

// everything marks all that is translated.
func (d *dirty) everything() {
	m := d.model
	d.mark(Key{Kind: KindStaticStrict})
	for namespace := range m.pods.spaces {
		for pod := range m.pods.in(namespace) {
			d.mark(pod.Key())
		}
	}
	for namespace := range m.workloadEntries.spaces {
		for entry := range m.workloadEntries.in(namespace) {
			d.mark(entry.Key())
		}
	}
	for namespace := range m.services.byNamespace {
		d.services(namespace)
	}
	for namespace := range m.serviceEntries.byNamespace {
		d.services(namespace)
	}
	for name := range m.slices {
		d.mark(Key{KindEndpointSlice, name})
	}
	for name, gateway := range m.gateways {
		d.mark(Key{KindGateway, name})
		if gateway.Network != "" {
			d.mark(Key{KindNetwork, Name{Name: gateway.Network}})
		}
	}
	for name := range m.policies.all {
		d.mark(Key{KindAuthorizationPolicy, name})
	}
	for name := range m.peers.all {
		d.mark(Key{KindPeerAuthentication, name})
	}
	for name := range m.routing.authentications {
		d.mark(Key{KindRequestAuthentication, name})
	}
}
