package model

import (
	"cmp"
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
	return nil, m.oldestEntry(host.Name, func(e *ServiceEntry) bool {
		return e.Namespace == host.Namespace && m.Visibility(e) != Nobody
	})
}

// Owns tells whether it is the ServiceEntry that gives a host name its meaning in its namespace.
func (m *Model) Owns(e *ServiceEntry, hostname string) bool {
	_, owner := m.Owner(Name{e.Namespace, hostname})
	return owner == e
}

// Canonical tells whether clients of other namespaces mean the ServiceEntry's service by its host name: if Kubernetes has no
// service of that name, and it is the oldest that they may see.
func (m *Model) Canonical(e *ServiceEntry, hostname string) bool {
	return m.serviceNamed(hostname) == nil && e == m.oldestEntry(hostname, func(e *ServiceEntry) bool { return m.Visibility(e) == Public })
}

func (m *Model) oldestEntry(hostname string, counts func(*ServiceEntry) bool) *ServiceEntry {
	if i := slices.IndexFunc(m.entriesByHost[hostname], counts); i >= 0 {
		return m.entriesByHost[hostname][i]
	}
	return nil
}

// byAge holds ServiceEntries by each of their hosts, the oldest first: however many claim a host, its owner is found at
// once.
type byAge map[string][]*ServiceEntry

func (b byAge) set(hostname string, e *ServiceEntry, there bool) {
	list := b[hostname]
	at, found := slices.BinarySearchFunc(list, e, func(a, b *ServiceEntry) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	switch {
	case there && !found:
		list = slices.Insert(list, at, e)
	case !there && found:
		list = slices.Delete(list, at, at+1)
	}
	if b[hostname] = list; len(list) == 0 {
		delete(b, hostname)
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
