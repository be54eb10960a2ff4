package decode

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/protobuf/encoding/protojson"
	istio "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// meshConfigMap is the ConfigMap with what is said of the whole mesh, under meshKey. It counts in the control plane's own
// namespace.
const (
	meshConfigMap = "istio"
	meshKey       = "mesh"
	bundleKey     = "ca.crt"
)

// configMap reads the one of the mesh's settings, or one with certificates of authorities. Others say nothing.
func configMap(o *corev1.ConfigMap) (model.Object, error) {
	if o.Name == meshConfigMap {
		return meshConfig(o)
	}
	text, ok := o.Data[bundleKey]
	if !ok {
		return nil, nil
	}
	return &model.CABundle{Namespace: within(o.ObjectMeta), Name: o.Name, PEM: text}, nil
}

// meshConfig reads what is said of the mesh. Most fields are for sidecars, so unknown ones are left out.
func meshConfig(o *corev1.ConfigMap) (model.Object, error) {
	text, ok := o.Data[meshKey]
	if o.Name != meshConfigMap || !ok {
		return nil, nil
	}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, at("data."+meshKey, fmt.Errorf("no YAML: %w", err))
	}
	var config istio.MeshConfig
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &config); err != nil {
		return nil, at("data."+meshKey, located(err))
	}
	c := &model.MeshConfig{
		Namespace: within(o.ObjectMeta), Name: o.Name,
		TrustDomain: config.TrustDomain, TrustDomainAliases: config.TrustDomainAliases, RootNamespace: config.RootNamespace,
	}
	for _, domain := range append([]string{c.TrustDomain}, c.TrustDomainAliases...) {
		if domain != "" && !trustDomain.MatchString(domain) {
			return nil, at("data."+meshKey, fmt.Errorf("trust domain %.100q: want lower-case letters, digits, dots, dashes and underscores", domain))
		}
	}
	c.EntryVisibility, err = entryVisibility(config.ServiceEntryVisibility)
	return c, err
}

var trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)

func entryVisibility(o *istio.ServiceEntryVisibility) (*model.EntryVisibility, error) {
	if o == nil {
		return nil, nil
	}
	v := &model.EntryVisibility{Default: visibility(o.DefaultVisibility)}
	for i, policy := range o.Policies {
		rule := model.VisibilityRule{Visibility: visibility(policy.Visibility)}
		for j, match := range policy.MatchingRules {
			path := fmt.Sprintf("data.%s.serviceEntryVisibility.policies[%d].matchingRules[%d]", meshKey, i, j)
			chosen := match.GetNamespaceSelector()
			if chosen == nil {
				return nil, at(path, errors.New("want a namespaceSelector"))
			}
			s := model.Selector{Labels: model.LabelsOf(chosen.MatchLabels)}
			for k, each := range chosen.MatchExpressions {
				r, err := requirement(fmt.Sprintf("%s.namespaceSelector.matchExpressions[%d]", path, k), each.Key, each.Operator, each.Values)
				if err != nil {
					return nil, err
				}
				s.Also = append(s.Also, r)
			}
			rule.Namespaces = append(rule.Namespaces, s)
		}
		v.Rules = append(v.Rules, rule)
	}
	return v, nil
}

func visibility(v istio.ServiceEntryVisibility_Visibility) model.Visibility {
	switch v {
	case istio.ServiceEntryVisibility_NAMESPACE:
		return model.OwnNamespace
	case istio.ServiceEntryVisibility_NONE:
		return model.Nobody
	}
	return model.Public
}
