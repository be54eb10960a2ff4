package decode

import (
	"errors"
	"fmt"

	istiotype "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// targetGroups has the kinds that policies are attached to, each with its group.
var targetGroups = map[string]string{
	"Service": "", "ServiceEntry": "networking.istio.io", "Gateway": gatewayGroup, "GatewayClass": gatewayGroup,
}

// targets reads what a policy of the namespace is attached to. Kinds that aren't known are somebody else's.
func targets(namespace string, one *istiotype.PolicyTargetReference, more []*istiotype.PolicyTargetReference) ([]model.Target, error) {
	refs, path := more, func(i int) string { return fmt.Sprintf("spec.targetRefs[%d]", i) }
	switch {
	case one != nil && len(more) > 0:
		return nil, at("spec.targetRef", errors.New("targetRef and targetRefs exclude each other"))
	case one != nil:
		refs, path = []*istiotype.PolicyTargetReference{one}, func(int) string { return "spec.targetRef" }
	}
	var found []model.Target
	for i, ref := range refs {
		switch {
		case ref.GetKind() == "" || ref.GetName() == "":
			return nil, at(path(i), errors.New("want kind and name"))
		case ref.GetNamespace() != "" && ref.GetNamespace() != namespace:
			return nil, at(path(i)+".namespace", fmt.Errorf("%q is another namespace: a policy is attached within its own, %s", ref.GetNamespace(), namespace))
		}
		group, known := targetGroups[ref.GetKind()]
		if !known || group != ref.GetGroup() && (group != "" || ref.GetGroup() != "core") {
			continue
		}
		name := model.Name{Namespace: namespace, Name: ref.GetName()}
		if ref.GetKind() == "GatewayClass" {
			name.Namespace = ""
		}
		found = append(found, model.Target{Kind: model.Kind(ref.GetKind()), Name: name})
	}
	return found, nil
}
