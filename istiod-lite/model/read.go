package model

import (
	"cmp"
	"slices"
)

// Pod returns the pod, or nil.
func (m *Model) Pod(name Name) *Pod { return m.pods.all[name] }

// Service returns the service, or nil.
func (m *Model) Service(name Name) *Service { return m.services.all[name] }

// EndpointSlice returns the slice, or nil.
func (m *Model) EndpointSlice(name Name) *EndpointSlice { return m.slices[name] }

// AuthorizationPolicy returns the policy, or nil.
func (m *Model) AuthorizationPolicy(name Name) *AuthorizationPolicy { return m.policies.all[name] }

// PeerAuthentication returns the policy, or nil.
func (m *Model) PeerAuthentication(name Name) *PeerAuthentication { return m.peers.all[name] }

// Namespace returns what is known of the namespace, or nil.
func (m *Model) Namespace(name string) *Namespace { return m.namespaces[name] }

// Node returns what is known of the node, or nil.
func (m *Model) Node(name string) *Node { return m.nodes[name] }

// Enrolled tells whether the pod is captured, as the agent of its node says. What it says of another pod, that had the
// name before, doesn't count; a pod without a uid can't be told from that.
func (m *Model) Enrolled(p *Pod) bool {
	enrolment := m.enrolments[p.Node]
	if enrolment == nil {
		return false
	}
	uid, captured := enrolment.Pods[p.Key().Name]
	return captured && (uid == p.UID || uid == "" || p.UID == "")
}

// Runs tells whether the node has a pod of the service account that hasn't ended.
func (m *Model) Runs(node string, serviceAccount Name) bool {
	for name := range m.podsByAccount[account{node, serviceAccount}] {
		if !m.pods.all[name].Ended {
			return true
		}
	}
	return false
}

// ServicesOf returns the services that select the pod, by name.
func (m *Model) ServicesOf(p *Pod) []*Service {
	var found []*Service
	m.services.selectedBy(p.Namespace, p.Labels, func(s *Service) { found = append(found, s) })
	return sorted(found)
}

// SlicesOf returns the slices that name the pod, by name.
func (m *Model) SlicesOf(p *Pod) []*EndpointSlice {
	var found []*EndpointSlice
	for name := range m.slicesByPod[p.Key().Name] {
		found = append(found, m.slices[name])
	}
	return sorted(found)
}

// PoliciesOf returns the policies that select the pod, of its namespace and of the root, by name. Those about whole
// namespaces aren't among them.
func (m *Model) PoliciesOf(p *Pod) []*AuthorizationPolicy {
	var found []*AuthorizationPolicy
	add := func(policy *AuthorizationPolicy) { found = append(found, policy) }
	m.policies.selectedBy(p.Namespace, p.Labels, add)
	if p.Namespace != m.rootNamespace {
		m.policies.selectedBy(m.rootNamespace, p.Labels, add)
	}
	return sorted(found)
}

// PeerOf returns the PeerAuthentication that selects the pod, or nil. Of several it is the oldest. In the root namespace
// none selects.
func (m *Model) PeerOf(p *Pod) *PeerAuthentication {
	if p.Namespace == m.rootNamespace {
		return nil
	}
	var found []*PeerAuthentication
	m.peers.selectedBy(p.Namespace, p.Labels, func(peer *PeerAuthentication) { found = append(found, peer) })
	return oldest(found)
}

// PeerDefault returns the PeerAuthentication about the whole namespace, or nil. Of several it is the oldest.
func (m *Model) PeerDefault(namespace string) *PeerAuthentication {
	var found []*PeerAuthentication
	for name := range m.peersByLevel[namespace] {
		found = append(found, m.peers.all[name])
	}
	return oldest(found)
}

func oldest(peers []*PeerAuthentication) *PeerAuthentication {
	if len(peers) == 0 {
		return nil
	}
	return slices.MinFunc(peers, func(a, b *PeerAuthentication) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
}

func sorted[T Object](objects []T) []T {
	slices.SortFunc(objects, func(a, b T) int { return cmp.Compare(a.Key().String(), b.Key().String()) })
	return objects
}
