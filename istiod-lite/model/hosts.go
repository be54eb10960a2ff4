package model

import (
	"maps"
	"slices"
	"strings"
)

// Hostname is the name by which clients know the service.
func (m *Model) Hostname(s *Service) string {
	return s.Name + "." + s.Namespace + ".svc." + m.settings.Domain
}

// serviceNamed returns Kubernetes' service of that host name, or nil.
func (m *Model) serviceNamed(hostname string) *Service {
	rest, ok := strings.CutSuffix(hostname, ".svc."+m.settings.Domain)
	name, namespace, two := strings.Cut(rest, ".")
	if !ok || !two {
		return nil
	}
	return m.services.all[Name{namespace, name}]
}

// Owner returns what gives a host name its meaning in a namespace: a service of Kubernetes there, else the oldest
// ServiceEntry that is visible at all, else neither.
func (m *Model) Owner(host Name) (*Service, *ServiceEntry) {
	if s := m.serviceNamed(host.Name); s != nil && s.Namespace == host.Namespace {
		return s, nil
	}
	if e := m.entriesByHost.oldest(host); e != nil && m.Visibility(e) != Nobody { // of a namespace, all are seen alike
		return nil, e
	}
	return nil, nil
}

// Owns tells whether it is the ServiceEntry that gives a host name its meaning in its namespace.
func (m *Model) Owns(e *ServiceEntry, hostname string) bool {
	_, owner := m.Owner(Name{e.Namespace, hostname})
	return owner == e
}

// Canonical tells whether clients of other namespaces mean the ServiceEntry's service by its host name: if Kubernetes has no
// service of that name, and it is the oldest that they may see.
func (m *Model) Canonical(e *ServiceEntry, hostname string) bool { return e == m.canonical(hostname) }

func (m *Model) canonical(hostname string) *ServiceEntry {
	if m.serviceNamed(hostname) != nil {
		return nil
	}
	return m.publicByHost.oldest(hostname)
}

// reveal finds out again which entries everybody sees, if that goes by the object.
func (m *Model) reveal(by Key) {
	entries := maps.Values(m.serviceEntries.all)
	switch by.Kind {
	case KindNamespace:
		entries = m.serviceEntries.byNamespace.of(by.Name.Name)
	case KindMeshConfig:
	default:
		return
	}
	for e := range entries {
		public := m.Visibility(e) == Public
		for _, host := range e.Hosts {
			m.publicByHost.set(host, e, public)
		}
	}
}

// byAge holds ServiceEntries by each of their hosts, the oldest first: however many claim a host, the one that counts is found at
// once.
type byAge[K comparable] map[K][]*ServiceEntry

func (b byAge[K]) oldest(host K) *ServiceEntry {
	if list := b[host]; len(list) > 0 {
		return list[0]
	}
	return nil
}

func (b byAge[K]) set(host K, e *ServiceEntry, there bool) {
	list := b[host]
	at, found := slices.BinarySearchFunc(list, e, func(a, b *ServiceEntry) int {
		return older(a.Created, b.Created, a.Key().Name, b.Key().Name)
	})
	switch {
	case there && !found:
		list = slices.Insert(list, at, e)
	case !there && found:
		list = slices.Delete(list, at, at+1)
	}
	if b[host] = list; len(list) == 0 {
		delete(b, host)
	}
}

// NetworkGateways returns the gateways that lead into the network, and can be reached, by name. Of several the first counts.
func (m *Model) NetworkGateways(network string) []*Gateway {
	var found []*Gateway
	for g := range m.gatewaysByNetwork.of(network) {
		if len(g.Entrances()) > 0 {
			found = append(found, g)
		}
	}
	return sorted(found)
}

// remoteClass is the class of gateways that somebody else runs, whose addresses stand in the spec.
const remoteClass = "istio-remote"

// Entrances are the addresses at which the gateway is reached from other networks.
func (g *Gateway) Entrances() []GatewayAddress {
	if len(g.Addresses) == 0 && g.Class == remoteClass {
		return g.Wanted
	}
	return g.Addresses
}
