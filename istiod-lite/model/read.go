package model

import (
	"cmp"
	"slices"
)

// Pod returns the pod, or nil.
func (m *Model) Pod(name Name) *Pod { return m.pods.get(name) }

// Service returns the service, or nil.
func (m *Model) Service(name Name) *Service { return m.services.all[name] }

// ServiceEntry returns the entry, or nil.
func (m *Model) ServiceEntry(name Name) *ServiceEntry { return m.serviceEntries.all[name] }

// Gateway returns the gateway, or nil.
func (m *Model) Gateway(name Name) *Gateway { return m.gateways[name] }

// Namespace returns what is known of the namespace, or nil.
func (m *Model) Namespace(name string) *Namespace { return m.namespaces[name] }

// Node returns what is known of the node, or nil.
func (m *Model) Node(name string) *Node { return m.nodes[name] }

// Enrolled tells whether the pod is captured, as the agent of its node says. What it says of another pod, that had the
// name before, doesn't count; a pod without a uid can't be told from that.
func (m *Model) Enrolled(p *Pod) bool {
	if p.Redirected {
		return true
	}
	enrolment := m.enrolments[p.Node]
	if enrolment == nil {
		return false
	}
	uid, captured := enrolment.Pods[p.Key().Name]
	return captured && (uid == p.UID || uid == "" || p.UID == "")
}

// Runs tells whether the node has a pod of the service account that hasn't ended.
func (m *Model) Runs(node string, serviceAccount Name) bool {
	for pod := range m.podsByNode.of(node) {
		if !pod.Ended && pod.Namespace == serviceAccount.Namespace && pod.ServiceAccount == serviceAccount.Name {
			return true
		}
	}
	return false
}

// ServicesOf returns the services of a namespace of which workloads with the labels are endpoints, by name.
func (m *Model) ServicesOf(namespace string, labels Labels) []*Service {
	return sorted(inTime(m, crowd{namespace: namespace, labels: labels}, m.services.selectedBy(namespace, labels)))
}

// EntriesOf returns the ServiceEntries of a namespace of which workloads with the labels are endpoints, by name.
func (m *Model) EntriesOf(namespace string, labels Labels) []*ServiceEntry {
	return sorted(inTime(m, crowd{namespace: namespace, labels: labels}, m.serviceEntries.selectedBy(namespace, labels)))
}

// SlicesOf returns the slices that name the pod, of each service to which it belongs by nothing else, by name.
func (m *Model) SlicesOf(p *Pod) map[*Service][]*EndpointSlice {
	found := m.namedBy(podID{p.Key().Name, p.UID})
	for s := range found {
		if m.late(crowd{namespace: p.Namespace, pod: p.Name, uid: p.UID}, s) {
			delete(found, s)
		}
	}
	for _, list := range found {
		sorted(list)
	}
	return found
}

// PoliciesOf returns the policies that select labels in a namespace, of that namespace and of the root, by name. Those
// about whole namespaces aren't among them.
func (m *Model) PoliciesOf(namespace string, labels Labels) []*AuthorizationPolicy {
	found := slices.Collect(m.policies.selectedBy(namespace, labels))
	if root := m.RootNamespace(); namespace != root {
		found = slices.AppendSeq(found, m.policies.selectedBy(root, labels))
	}
	return sorted(found)
}

// PeerOf returns the PeerAuthentication that selects labels in a namespace, or nil. Of several it is the oldest. In the root
// namespace none selects.
func (m *Model) PeerOf(namespace string, labels Labels) *PeerAuthentication {
	if namespace == m.RootNamespace() {
		return nil
	}
	return oldest(slices.Collect(m.peers.selectedBy(namespace, labels)))
}

// PeerDefault returns the PeerAuthentication about the whole namespace, or nil. Of several it is the oldest.
func (m *Model) PeerDefault(namespace string) *PeerAuthentication {
	return oldest(slices.Collect(m.peersByLevel.of(namespace)))
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
	slices.SortFunc(objects, func(a, b T) int { return a.Key().Name.compare(b.Key().Name) })
	return objects
}

// Instances returns the pods of a gateway that haven't ended, by name.
func (m *Model) Instances(gateway Name) []*Pod {
	var found []*Pod
	for pod := range m.pods.selected(gateway.Namespace, gatewayLabels(gateway.Name)) {
		if !pod.Ended {
			found = append(found, pod)
		}
	}
	return sorted(found)
}
