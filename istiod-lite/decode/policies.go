package decode

import (
	"errors"
	"fmt"

	istio "istio.io/api/security/v1beta1"
	istiotype "istio.io/api/type/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func security() []Kind {
	versions := []string{"v1", "v1beta1"}
	authorization := Kind{Group: "security.istio.io", Kind: "AuthorizationPolicy", Versions: versions, Resource: "authorizationpolicies", Model: model.KindAuthorizationPolicy}
	authorization.closed = closedAuthorization
	peer := Kind{Group: "security.istio.io", Kind: "PeerAuthentication", Versions: versions, Resource: "peerauthentications", Model: model.KindPeerAuthentication}
	peer.closed = closedPeer
	tokens := Kind{Group: "security.istio.io", Kind: "RequestAuthentication", Versions: versions, Resource: "requestauthentications", Model: model.KindRequestAuthentication}
	tokens.closed = closedTokens
	return []Kind{kind(authorization, authorizationPolicy), kind(peer, peerAuthentication), kind(tokens, requestAuthentication)}
}

// scope is the part of a policy that says whom it is about.
type scope struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		TargetRef  *targetRef  `json:"targetRef"`
		TargetRefs []targetRef `json:"targetRefs"`
	} `json:"spec"`
}

// targetRef is what a policy is attached to, read with tolerance.
type targetRef struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// targets are what the policy is attached to; targeted is false if that can't be told.
func (s *scope) targets() (found []model.Target, targeted bool) {
	var refs []*istiotype.PolicyTargetReference
	for _, ref := range s.Spec.TargetRefs {
		refs = append(refs, &istiotype.PolicyTargetReference{Group: ref.Group, Kind: ref.Kind, Name: ref.Name, Namespace: ref.Namespace})
	}
	if ref := s.Spec.TargetRef; ref != nil {
		refs = append(refs, &istiotype.PolicyTargetReference{Group: ref.Group, Kind: ref.Kind, Name: ref.Name, Namespace: ref.Namespace})
	}
	found, err := targets(within(s.ObjectMeta), nil, refs)
	return found, err == nil && len(refs) > 0
}

// readScope reads the scope as far as it can be read. Who can't tell whom a policy is about takes it for all.
func readScope(fill func(any) error) (s scope, whole bool) {
	if err := fill(&s); err != nil {
		s.Spec.Selector.MatchLabels, s.Spec.TargetRef, s.Spec.TargetRefs = nil, nil, nil
		_ = fill(&struct {
			*metav1.ObjectMeta `json:"metadata"`
		}{&s.ObjectMeta}) // what the error is about isn't in there, else the object has no name
		return s, false
	}
	return s, true
}

// closedAuthorization allows nobody: an ALLOW policy without rules. One that nobody would have been refused by, if it could be read, refuses
// nobody: AUDIT only tells, and CUSTOM asks a provider about requests, of which waypoints then refuse all.
func closedAuthorization(fill func(any) error) model.Object {
	s, whole := readScope(fill)
	labels := model.LabelsOf(s.Spec.Selector.MatchLabels)
	targets, targeted := s.targets()
	forRequests := targeted || whole && s.Spec.TargetRef == nil && len(s.Spec.TargetRefs) == 0 // else nobody knows at which waypoint
	closed := &model.AuthorizationPolicy{
		Namespace: within(s.ObjectMeta), Name: s.Name, Revision: s.Labels[model.RevisionLabel], Selected: !labels.Empty(), Selector: labels,
		Targeted: targeted, Targets: targets, Action: model.Allow, DryRun: dryRun(s.ObjectMeta),
	}
	switch action := readAction(fill); {
	case action == model.Audit:
		closed.Action = action
	case action == model.Custom && forRequests:
		closed.Action, closed.Rules = action, []model.Rule{{}}
	}
	return closed
}

// readAction reads a policy's action as far as it can be read.
func readAction(fill func(any) error) model.Action {
	var o struct {
		Spec struct {
			Action model.Action `json:"action"`
		} `json:"spec"`
	}
	_ = fill(&o) // then it is none that is known
	return o.Spec.Action
}

func dryRun(o metav1.ObjectMeta) bool { return o.Annotations["istio.io/dry-run"] == "true" }

// closedTokens accepts no token: its issuer has no keys.
func closedTokens(fill func(any) error) model.Object {
	s, _ := readScope(fill)
	targets, targeted := s.targets()
	return &model.RequestAuthentication{
		Namespace: within(s.ObjectMeta), Name: s.Name, Revision: s.Labels[model.RevisionLabel], Targeted: targeted, Targets: targets,
		Issuers: []model.TokenIssuer{{Issuer: "unreadable"}},
	}
}

// closedPeer accepts no plain text.
func closedPeer(fill func(any) error) model.Object {
	s, _ := readScope(fill)
	labels := model.LabelsOf(s.Spec.Selector.MatchLabels)
	return &model.PeerAuthentication{
		Namespace: within(s.ObjectMeta), Name: s.Name, Revision: s.Labels[model.RevisionLabel], Created: s.CreationTimestamp.Time,
		Selected: !labels.Empty(), Selector: labels, Mode: model.MTLSStrict,
	}
}

func authorizationPolicy(o *resource[istio.AuthorizationPolicy, *istio.AuthorizationPolicy]) (model.Object, error) {
	spec := o.Spec.get()
	p := &model.AuthorizationPolicy{
		Namespace: within(o.ObjectMeta), Name: o.Name,
		Generation: o.Generation, Revision: o.Labels[model.RevisionLabel],
		Selected: spec.Selector != nil, Selector: model.LabelsOf(spec.Selector.GetMatchLabels()),
		Targeted: spec.TargetRef != nil || len(spec.TargetRefs) > 0,
		Action:   model.Action(spec.Action.String()),
		Provider: spec.GetProvider().GetName(),
		DryRun:   dryRun(o.ObjectMeta),
	}
	if p.Selected && p.Targeted {
		return nil, at("spec.selector", errors.New("selector and targetRefs exclude each other"))
	}
	var err error
	if p.Targets, err = targets(p.Namespace, spec.TargetRef, spec.TargetRefs); err != nil {
		return nil, err
	}
	if err := selector("spec.selector.matchLabels", spec.Selector.GetMatchLabels()); err != nil {
		return nil, err
	}
	r := ruleReader{namespace: p.Namespace}
	for i, rule := range spec.Rules {
		read, err := r.rule(fmt.Sprintf("spec.rules[%d]", i), rule)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, read)
	}
	return p, nil
}

func peerAuthentication(o *resource[istio.PeerAuthentication, *istio.PeerAuthentication]) (model.Object, error) {
	spec := o.Spec.get()
	p := &model.PeerAuthentication{
		Namespace: within(o.ObjectMeta), Name: o.Name, Created: o.CreationTimestamp.Time,
		// An empty selector is the same as none here, other than in an AuthorizationPolicy.
		Selected: len(spec.Selector.GetMatchLabels()) > 0, Selector: model.LabelsOf(spec.Selector.GetMatchLabels()),
		Revision: o.Labels[model.RevisionLabel], Mode: mode(spec.Mtls),
	}
	if err := selector("spec.selector.matchLabels", spec.Selector.GetMatchLabels()); err != nil {
		return nil, err
	}
	if len(spec.PortLevelMtls) > 0 && !p.Selected {
		return nil, at("spec.portLevelMtls", errors.New("exceptions for ports need a selector"))
	}
	for number, mtls := range spec.PortLevelMtls {
		checked, err := port("spec.portLevelMtls", int64(number))
		if err != nil {
			return nil, err
		}
		if p.Ports == nil {
			p.Ports = make(map[uint16]model.MTLS)
		}
		p.Ports[checked] = mode(mtls)
	}
	return p, nil
}

func mode(mtls *istio.PeerAuthentication_MutualTLS) model.MTLS {
	switch mtls.GetMode() {
	case istio.PeerAuthentication_MutualTLS_STRICT:
		return model.MTLSStrict
	case istio.PeerAuthentication_MutualTLS_PERMISSIVE:
		return model.MTLSPermissive
	case istio.PeerAuthentication_MutualTLS_DISABLE:
		return model.MTLSDisable
	}
	return model.MTLSUnset
}
