package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// taint keeps pods off a node whose agent isn't there yet, if an operator's nodes begin with it.
const taint = "cni.istio.io/not-ready"

// Untaint lets pods be scheduled to this node.
func (c *Client) Untaint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	var node corev1.Node
	if err := c.core.Get().Resource("nodes").Name(c.node).Do(ctx).Into(&node); err != nil {
		return fmt.Errorf("look for the taint %s: %w", taint, err)
	}
	left := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Key == taint })
	if len(left) == len(node.Spec.Taints) {
		return nil
	}
	// A list is replaced as a whole, so nobody must have changed it meanwhile.
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/resourceVersion", "value": node.ResourceVersion},
		{"op": "replace", "path": "/spec/taints", "value": left},
	})
	if err != nil {
		return err
	}
	err = c.core.Patch(types.JSONPatchType).Resource("nodes").Name(c.node).
		VersionedParams(&metav1.PatchOptions{FieldManager: component}, metav1.ParameterCodec).Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("take away the taint %s: %w", taint, err)
	}
	c.log.Info("the node is ready for pods of the mesh", "taint", taint)
	return nil
}

// Uninstalled tells whether the DaemonSet that runs the agent is gone or about to be, so that nothing comes after the agent.
// An error means that this isn't known; ErrDenied is among its causes if the agent has no right to look.
func (c *Client) Uninstalled(ctx context.Context, namespace, daemonSet string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	sets := c.meta.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}).Namespace(namespace)
	set, err := sets.Get(ctx, daemonSet, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err):
		return false, fmt.Errorf("look for DaemonSet %s/%s: %w: %w", namespace, daemonSet, ErrDenied, err)
	case err != nil:
		return false, fmt.Errorf("look for DaemonSet %s/%s: %w", namespace, daemonSet, err)
	}
	return set.DeletionTimestamp != nil, nil
}

// ErrDenied is that of an agent whose account lacks a right, or is gone.
var ErrDenied = errors.New("the agent's account may not")
