package decode

import (
	"errors"
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func backends() []Kind {
	policy := Kind{Group: gatewayGroup, Kind: "BackendTLSPolicy", Versions: []string{"v1"}, Resource: "backendtlspolicies", Model: model.KindBackendTLSPolicy}
	policy.closed = closedBackendTLS
	return []Kind{kind(policy, backendTLSPolicy)}
}

// backendTLSPolicy reads one. What keeps it from being obeyed is told in its status, so that it isn't as if it weren't there.
func backendTLSPolicy(o *gatewayv1.BackendTLSPolicy) (model.Object, error) {
	v := &o.Spec.Validation
	p := &model.BackendTLSPolicy{
		Namespace: within(o.ObjectMeta), Name: o.Name, Generation: o.Generation, Created: o.CreationTimestamp.Time, Revision: o.Labels[model.RevisionLabel],
		Hostname: strings.ToLower(string(v.Hostname)),
	}
	for i, ref := range o.Spec.TargetRefs {
		if ref.Kind == "" || ref.Name == "" {
			return nil, at(fmt.Sprintf("spec.targetRefs[%d]", i), errors.New("want kind and name"))
		}
		if target, ours := backendTarget(p.Namespace, string(ref.Group), string(ref.Kind), string(ref.Name)); ours {
			p.Targets = append(p.Targets, model.BackendTarget{Target: target, Section: string(or(ref.SectionName, ""))})
		}
	}
	switch {
	case p.Hostname == "" || strings.Contains(p.Hostname, "*"):
		return nil, at("spec.validation.hostname", fmt.Errorf("want a host name without wildcards, have %q", v.Hostname))
	case v.WellKnownCACertificates != nil && len(v.CACertificateRefs) > 0:
		return nil, at("spec.validation", errors.New("caCertificateRefs and wellKnownCACertificates exclude each other"))
	case v.WellKnownCACertificates == nil && len(v.CACertificateRefs) == 0:
		return nil, at("spec.validation", errors.New("want caCertificateRefs or wellKnownCACertificates: else nobody vouches for the backend"))
	case or(v.WellKnownCACertificates, gatewayv1.WellKnownCACertificatesSystem) != gatewayv1.WellKnownCACertificatesSystem:
		p.Problem = &model.Problem{Condition: model.Accepted, Reason: "Invalid", Message: fmt.Sprintf("wellKnownCACertificates %q isn't known: use System", *v.WellKnownCACertificates)}
	}
	p.System = v.WellKnownCACertificates != nil
	for _, ref := range v.CACertificateRefs {
		p.Bundles = append(p.Bundles, objectRef(p.Namespace, ref.Group, ref.Kind, nil, ref.Name))
	}
	for i := range v.SubjectAltNames {
		name, err := subjectName(fmt.Sprintf("spec.validation.subjectAltNames[%d]", i), &v.SubjectAltNames[i])
		if err != nil {
			return nil, err
		}
		p.Names = append(p.Names, name)
	}
	for option := range o.Spec.Options {
		if p.Problem == nil {
			p.Problem = &model.Problem{Condition: model.Accepted, Reason: "Invalid", Message: fmt.Sprintf("option %s isn't known", option)}
		}
	}
	return p, nil
}

// backendTarget is what a policy is about; ours is false for a kind that is somebody else's.
func backendTarget(namespace, group, kind, name string) (target model.Target, ours bool) {
	ref := objectRef(namespace, gatewayv1.Group(group), gatewayv1.Kind(kind), nil, gatewayv1.ObjectName(name))
	if known, ok := targetGroups[kind]; !ok || known != ref.Group || kind != "Service" && kind != "ServiceEntry" {
		return target, false
	}
	return model.Target{Kind: model.Kind(kind), Name: ref.Name}, true
}

func subjectName(path string, o *gatewayv1.SubjectAltName) (name model.SubjectName, err error) {
	switch {
	case o.Type == gatewayv1.HostnameSubjectAltNameType && o.Hostname != "" && o.URI == "":
		name.Hostname = strings.ToLower(string(o.Hostname))
	case o.Type == gatewayv1.URISubjectAltNameType && o.URI != "" && o.Hostname == "":
		name.URI = string(o.URI)
	default:
		err = at(path, errors.New("want type Hostname with a hostname, or URI with a uri"))
	}
	return name, err
}

// closedBackendTLS trusts nobody: its targets aren't spoken to.
func closedBackendTLS(fill func(any) error) model.Object {
	s, _ := readScope(fill)
	p := &model.BackendTLSPolicy{
		Namespace: within(s.ObjectMeta), Name: s.Name, Generation: s.Generation, Created: s.CreationTimestamp.Time, Revision: s.Labels[model.RevisionLabel],
		Problem: &model.Problem{Condition: model.Accepted, Reason: "Invalid", Message: "it can't be read"},
	}
	for _, ref := range s.Spec.TargetRefs {
		if target, ours := backendTarget(p.Namespace, ref.Group, ref.Kind, ref.Name); ours {
			p.Targets = append(p.Targets, model.BackendTarget{Target: target})
		}
	}
	return p
}
