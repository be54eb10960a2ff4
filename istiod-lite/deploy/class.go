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

// ClassConditions are those of a class whose Gateways we deploy; nil for another's.
func ClassConditions(class *model.GatewayClass) []model.Condition {
	if class == nil || class.Controller != model.WaypointController {
		return nil
	}
	return []model.Condition{good(accepted, accepted, "its Gateways are deployed as waypoints")}
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
