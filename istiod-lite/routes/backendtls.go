package routes

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

const (
	noValidCA    = "NoValidCACertificate"
	invalidCARef = "InvalidCACertificateRef"
)

// maxBundle is how long the certificates of authorities may be, in bytes: every waypoint of the backend reads them.
const maxBundle = 256 << 10

// backendTLS makes what waypoints do of a BackendTLSPolicy, and what its status says of each target. One that can't be obeyed goes to them too,
// with the reason: then they don't speak to the backend.
func (t translation) backendTLS(p *model.BackendTLSPolicy) Result {
	accepted := model.Condition{Type: model.Accepted, Status: true, Reason: model.Accepted, Message: "in force"}
	out := &l7.BackendTLS{Hostname: p.Hostname, System: p.System}
	for _, name := range p.Names {
		out.SubjectAltNames = append(out.SubjectAltNames, &l7.SubjectAltName{Hostname: name.Hostname, Uri: name.URI})
	}
	resolved := model.Condition{Type: model.ResolvedRefs, Status: true, Reason: model.ResolvedRefs, Message: "the certificates of authorities are there"}
	if problem := t.authorities(p, out); problem != nil {
		resolved = failed(problem)
		if out.Authorities == "" {
			accepted = model.Condition{Type: model.Accepted, Reason: noValidCA, Message: "nobody vouches for the backend, so it isn't spoken to: " + problem.Message}
		}
	}
	if p.Problem != nil {
		accepted = failed(p.Problem)
		accepted.Message += "; so the backend isn't spoken to"
	}
	if !accepted.Status {
		out.Invalid = accepted.Message
	}
	resource := &l7.Resource{Schema: schema, Origin: origin(p.Key()), Kind: &l7.Resource_BackendTls{BackendTls: out}}
	var result Result
	for i := range p.Targets {
		target := &p.Targets[i]
		of := accepted
		found, problem := t.secured(p, target)
		if problem != nil {
			of = failed(problem)
		}
		resource.Targets = append(resource.Targets, found...)
		ref := model.ParentRef{ObjectRef: model.ObjectRef{Group: targetGroup[target.Kind], Kind: string(target.Kind), Name: target.Name}, Section: target.Section}
		result.Parents = append(result.Parents, Parent{ref, []model.Condition{of, resolved}})
	}
	if len(resource.Targets) > 0 {
		result.Resources = []Resource{{Name: resourceName(p.Key()), Message: resource}}
	}
	return result
}

var targetGroup = map[model.Kind]string{model.KindServiceEntry: istioGroup}

// authorities puts together whom the policy trusts, and says which of its references lead nowhere.
func (t translation) authorities(p *model.BackendTLSPolicy, out *l7.BackendTLS) (problem *model.Problem) {
	for _, ref := range p.Bundles {
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			problem = &model.Problem{Condition: model.ResolvedRefs, Reason: invalidKind, Message: fmt.Sprintf("%s %s is no ConfigMap", ref.Kind, ref.Name)}
			continue
		}
		text := ""
		if bundle := t.model.CABundle(ref.Name); bundle != nil {
			text = bundle.PEM
		}
		if text == "" {
			problem = &model.Problem{Condition: model.ResolvedRefs, Reason: invalidCARef, Message: fmt.Sprintf("there is no ConfigMap %s with a field ca.crt", ref.Name)}
		} else if err := checkBundle(text); err != nil {
			problem = &model.Problem{Condition: model.ResolvedRefs, Reason: invalidCARef, Message: fmt.Sprintf("ca.crt of ConfigMap %s: %v", ref.Name, err)}
		} else {
			out.Authorities += strings.TrimSpace(text) + "\n"
		}
	}
	return problem
}

// checkBundle tells whether all of a text is certificates.
func checkBundle(text string) error {
	rest := []byte(text)
	if len(rest) > maxBundle {
		return fmt.Errorf("%d bytes are more than %d", len(rest), maxBundle)
	}
	found := 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a %s is no certificate", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", found, err)
		}
		found++
	}
	if found == 0 || strings.Contains(string(rest), "-----BEGIN") {
		return fmt.Errorf("certificate %d is no PEM", found)
	}
	return nil
}

// secured finds the services and ports of a target for which the policy counts: for a port that policies name, the oldest of those, for the others
// the oldest of those that name none.
func (t translation) secured(p *model.BackendTLSPolicy, target *model.BackendTarget) ([]*l7.Target, *model.Problem) {
	named := make(map[string]bool)
	for _, other := range t.model.BackendTLSPoliciesAt(target.Target) {
		for _, o := range other.Targets {
			if o.Target != target.Target {
				continue
			}
			if o.Section == target.Section && !named[o.Section] && other.Key() != p.Key() {
				return nil, &model.Problem{Condition: model.Accepted, Reason: conflicted, Message: fmt.Sprintf("%s %s is the older policy's: lost to %s", target.Kind, target.Name, other.Key())}
			}
			named[o.Section] = true
		}
	}
	services, ports, there := t.servicesOf(target)
	if !there {
		if target.Section == "" { // when it comes, the policy is known before it is
			return onPorts(services, nil), notThere(target)
		}
		return nil, notThere(target)
	}
	var covered []uint32
	all := true
	for _, port := range ports {
		if target.Section == port.Name || target.Section == "" && !named[port.Name] {
			covered = append(covered, uint32(port.Port))
		} else {
			all = false
		}
	}
	switch {
	case target.Section == "" && all:
		return onPorts(services, nil), nil
	case len(covered) == 0 && target.Section != "":
		return nil, &model.Problem{Condition: model.Accepted, Reason: targetNotFound, Message: fmt.Sprintf("%s %s has no port %s", target.Kind, target.Name, target.Section)}
	case len(covered) == 0:
		return nil, nil // each port has a policy of its own
	}
	slices.Sort(covered)
	return onPorts(services, covered), nil
}

func notThere(target *model.BackendTarget) *model.Problem {
	return &model.Problem{Condition: model.Accepted, Reason: targetNotFound, Message: fmt.Sprintf("there is no %s %s", target.Kind, target.Name)}
}

func (t translation) servicesOf(target *model.BackendTarget) (services []string, ports []model.ServicePort, there bool) {
	if target.Kind == model.KindService {
		services = []string{t.serviceName(target.Name)}
		if service := t.model.Service(target.Name); service != nil {
			return services, service.Ports, true
		}
		return services, nil, false
	}
	if entry := t.model.ServiceEntry(target.Name); entry != nil {
		return t.hosts(entry), entry.Ports, true
	}
	return nil, nil, false
}

func onPorts(services []string, ports []uint32) (targets []*l7.Target) {
	for _, service := range services {
		targets = append(targets, &l7.Target{Of: &l7.Target_Service{Service: service}, Ports: ports})
	}
	return targets
}
