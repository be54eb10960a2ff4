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
	tooManyPolicies  = "tulle_too_many_policies"
	convertedPrefix  = "converted_peer_authentication_"
)

// shared makes the policies that workloads of any namespace share, as far as one can need them.
func shared(m *model.Model) (result Result) {
	root := m.RootNamespace()
	if m.Count(model.KindPeerAuthentication) > 0 {
		result.Resources = append(result.Resources, policyResource(staticStrict(root)))
	}
	if m.Count(model.KindAuthorizationPolicy) > model.MaxPolicies {
		result.Resources = append(result.Resources, policyResource(deny(root, tooManyPolicies, []*security.Group{{}})))
	}
	return result
}

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
	strict := modeOf(m, p) == model.MTLSStrict
	var list []uint32
	for _, port := range slices.Sorted(maps.Keys(p.Ports)) {
		if own := p.Ports[port]; own != model.MTLSUnset && (own == model.MTLSStrict) != strict {
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

// strictPolicy names the policy that keeps plain text from workloads with these labels, or is empty. A policy with
// exceptions replaces the shared one: what one policy denies, another can't except.
func strictPolicy(m *model.Model, namespace string, labels model.Labels) string {
	peer := m.PeerOf(namespace, labels)
	if peer != nil && hasEffect(m, peer) {
		return peer.Namespace + "/" + convertedPrefix + peer.Name
	}
	if inherit(peer, m.PeerDefault(namespace), m.PeerDefault(m.RootNamespace())) == model.MTLSStrict {
		return m.RootNamespace() + "/" + staticStrictName
	}
	return ""
}

// hasEffect tells whether workloads get the policy with exceptions. As in Istio, where strictness is inherited, ports that
// are only disabled don't count, though the policy is made for them.
func hasEffect(m *model.Model, p *model.PeerAuthentication) bool {
	exceptions := exceptions(m, p)
	if p.Mode != model.MTLSUnset || modeOf(m, p) != model.MTLSStrict {
		return len(exceptions) > 0
	}
	return slices.ContainsFunc(exceptions, func(port uint32) bool { return p.Ports[uint16(port)] == model.MTLSPermissive })
}
