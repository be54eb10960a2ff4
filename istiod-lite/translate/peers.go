package translate

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/security"
)

// Names that Kubernetes objects can't have, so they meet no policy of a user's.
const (
	staticStrictName = "istio_converted_static_strict"
	convertedPrefix  = "converted_peer_authentication_"
)

// staticStrict denies whoever has no identity: strict mTLS, as a policy that all strict workloads share.
func staticStrict(rootNamespace string) *security.Authorization {
	return deny(rootNamespace, staticStrictName, []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{anonymous()}}}}})
}

func deny(namespace, name string, groups []*security.Group) *security.Authorization {
	return &security.Authorization{
		Name: name, Namespace: namespace, Scope: security.Scope_WORKLOAD_SELECTOR, Action: security.Action_DENY, Groups: groups,
	}
}

// anonymous matches connections without an identity, which are those in plain text.
func anonymous() *security.Match {
	return &security.Match{NotPrincipals: []*security.StringMatch{present()}}
}

// peerPolicy makes the policy of a PeerAuthentication whose exceptions for ports change what holds otherwise; of others
// nothing is made, since they need no policy of their own.
func peerPolicy(m *model.Model, p *model.PeerAuthentication) Result {
	exceptions := exceptions(m, p)
	if len(exceptions) == 0 {
		return Result{}
	}
	var groups []*security.Group
	if modeOf(m, p) == model.MTLSStrict {
		// Denied is who is anonymous at a port that isn't excepted: all clauses of one group.
		var rules []*security.Rules
		for _, port := range exceptions {
			rules = append(rules, &security.Rules{Matches: []*security.Match{{NotDestinationPorts: []uint32{port}}}})
		}
		rules = append(rules, &security.Rules{Matches: []*security.Match{anonymous()}})
		groups = []*security.Group{{Rules: rules}}
	} else {
		// Denied is who is anonymous at one of the strict ports.
		for _, port := range exceptions {
			match := anonymous()
			match.DestinationPorts = []uint32{port}
			groups = append(groups, &security.Group{Rules: []*security.Rules{{Matches: []*security.Match{match}}}})
		}
	}
	return one(policyResource(deny(p.Namespace, convertedPrefix+p.Name, groups)))
}

// exceptions lists the ports whose mode differs from that of the other ports.
func exceptions(m *model.Model, p *model.PeerAuthentication) []uint32 {
	if !p.Selected || p.Namespace == m.RootNamespace() {
		return nil
	}
	mode := modeOf(m, p)
	var list []uint32
	for _, port := range slices.Sorted(maps.Keys(p.Ports)) {
		if own := p.Ports[port]; own != model.MTLSUnset && own != mode {
			list = append(list, uint32(port))
		}
	}
	return list
}

// modeOf is the mode of a PeerAuthentication, else its namespace's, else the mesh's, else permissive.
func modeOf(m *model.Model, p *model.PeerAuthentication) model.MTLS {
	return inherit(p, m.PeerDefault(p.Namespace), m.PeerDefault(m.RootNamespace()))
}

func inherit(levels ...*model.PeerAuthentication) model.MTLS {
	for _, level := range levels {
		if level != nil && level.Mode != model.MTLSUnset {
			return level.Mode
		}
	}
	return model.MTLSPermissive
}

// strictPolicy names the policy that keeps plain text from the pod, or is empty. A policy with exceptions replaces the
// shared one: what one policy denies, another can't except.
func strictPolicy(m *model.Model, p *model.Pod) string {
	peer := m.PeerOf(p)
	if peer != nil && len(exceptions(m, peer)) > 0 {
		return peer.Namespace + "/" + convertedPrefix + peer.Name
	}
	if inherit(peer, m.PeerDefault(p.Namespace), m.PeerDefault(m.RootNamespace())) == model.MTLSStrict {
		return m.RootNamespace() + "/" + staticStrictName
	}
	return ""
}
