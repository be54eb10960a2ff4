package deploy

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// kind is a sort of object that is made for a waypoint.
type kind struct {
	Kind     string
	resource schema.GroupVersionResource
	// key names it in ConfigMaps with changes.
	key string
	// asked says that it is made only where such a change asks for it.
	asked bool
	// typed makes an empty one.
	typed func() any
	// fixed are the fields, beside those of every kind, by which it is the Gateway's own, and no other's pods are touched.
	fixed [][]string
}

// kinds are all of them, in the order in which they are made.
var kinds = []kind{
	{
		Kind: "ServiceAccount", resource: schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"},
		key: "serviceAccount", typed: func() any { return new(corev1.ServiceAccount) },
	},
	{
		Kind: "Deployment", resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		key: "deployment", typed: func() any { return new(appsv1.Deployment) },
		fixed: [][]string{
			{"spec", "selector"}, {"spec", "template", "metadata", "labels", model.GatewayNameLabel},
			{"spec", "template", "spec", "serviceAccountName"}, {"spec", "template", "spec", "serviceAccount"},
		},
	},
	{
		Kind: "Service", resource: schema.GroupVersionResource{Version: "v1", Resource: "services"},
		key: "service", typed: func() any { return new(corev1.Service) },
		fixed: [][]string{{"spec", "selector"}},
	},
	{
		Kind: "HorizontalPodAutoscaler", resource: schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		key: "horizontalPodAutoscaler", asked: true, typed: func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
		fixed: [][]string{{"spec", "scaleTargetRef"}},
	},
	{
		Kind: "PodDisruptionBudget", resource: schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
		key: "podDisruptionBudget", asked: true, typed: func() any { return new(policyv1.PodDisruptionBudget) },
		fixed: [][]string{{"spec", "selector"}},
	},
}

// fixed are the fields of every kind by which it is the Gateway's own.
var fixed = [][]string{
	{"apiVersion"}, {"kind"}, {"metadata", "name"},
	{"metadata", "labels", model.GatewayNameLabel}, {"metadata", "labels", classLabel}, {"metadata", "labels", model.ManagedLabel},
}

// kindOf finds a kind by its name.
func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].Kind == name {
			return &kinds[i]
		}
	}
	return nil
}
