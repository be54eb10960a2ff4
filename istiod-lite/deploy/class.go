package deploy

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

var (
	classes   = schema.GroupVersionResource{Group: model.RouteGroup, Version: "v1", Resource: "gatewayclasses"}
	className = model.Name{Name: model.WaypointClass}
)

// features are what waypoints do of Gateway API, by the names that its conformance suite has for them (GEP-2162): e2e/conformance proves them. They are
// sorted, as the API wants them.
var features = []string{
	"GRPCRoute", "HTTPRoute", "HTTPRoute303RedirectStatusCode", "HTTPRoute307RedirectStatusCode", "HTTPRoute308RedirectStatusCode", "HTTPRouteParentRefPort",
	"HTTPRouteResponseHeaderModification", "Mesh", "MeshClusterIPMatching", "MeshConsumerRoute", "MeshHTTPRouteBackendRequestHeaderModification",
	"MeshHTTPRouteNamedRouteRule", "MeshHTTPRouteQueryParamMatching", "MeshHTTPRouteRedirectPath", "MeshHTTPRouteRedirectPort", "MeshHTTPRouteRewritePath",
	"MeshHTTPRouteSchemeRedirect",
}

// ClassStatus is what a class whose Gateways we deploy is told, and what they support; nothing for another's.
func ClassStatus(class *model.GatewayClass) ([]model.Condition, []string) {
	if class == nil || class.Controller != model.WaypointController {
		return nil, nil
	}
	return []model.Condition{good(model.Accepted, model.Accepted, "its Gateways are deployed as waypoints")}, features
}

// followClass sees to it that the class of waypoints is there, if the API server has classes at all.
func (c *cluster) followClass(ctx context.Context, cfg Config, changed func(model.Name)) {
	set := func(there bool) {
		c.lock.Lock()
		c.class = there
		c.lock.Unlock()
		changed(className)
	}
	found := false
	reflector.Objects[struct{}]{
		Kind: "GatewayClass", Client: cfg.Client.Resource(classes), Fields: "metadata.name=" + model.WaypointClass, Log: cfg.Log,
		Read:   func(*unstructured.Unstructured) (nothing struct{}) { return nothing },
		Put:    func(reflector.Name, struct{}) { found = true; set(true) },
		Gone:   func(reflector.Name) { found = false; set(false) },
		Listed: func() { set(found) },
	}.Follow(ctx)
}

// makeClass makes the class if it is missing.
func (c *cluster) makeClass(ctx context.Context, client dynamic.Interface) error {
	c.lock.Lock()
	there := c.class
	c.lock.Unlock()
	if there {
		return nil
	}
	_, err := client.Resource(classes).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": model.RouteGroup + "/v1", "kind": "GatewayClass",
		"metadata": map[string]any{"name": model.WaypointClass},
		"spec":     map[string]any{"controllerName": model.WaypointController, "description": "The mesh's own waypoints."},
	}}, metav1.CreateOptions{FieldManager: manager})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("create GatewayClass: %w", err)
	}
	return nil
}
