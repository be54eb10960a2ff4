package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
)

// Snapshot are the objects that were there at some time.
type Snapshot struct{ objects sets.Set[types.UID] }

// left are the kinds whose objects stay: the API server makes them as it likes, or what others are about.
var left = sets.New("apiservices", "customresourcedefinitions", "endpoints", "flowschemas", "ipaddresses", "namespaces", "prioritylevelconfigurations", "servicecidrs")

// found is an object.
type found struct {
	resource        schema.GroupVersionResource
	namespace, name string
	uid             types.UID
}

// Snapshot notes what is there now.
func (s *Server) Snapshot(ctx context.Context) (Snapshot, error) {
	all, err := s.all(ctx)
	before := Snapshot{sets.New[types.UID]()}
	for _, each := range all {
		before.objects.Insert(each.uid)
	}
	return before, err
}

// Restore deletes all objects that came since, and their namespaces, but for resource definitions. What was there already stays as
// it is now. Nobody should be making objects meanwhile.
func (s *Server) Restore(ctx context.Context, before Snapshot) error {
	for {
		all, err := s.all(ctx)
		if err != nil {
			return err
		}
		clean := true
		for _, each := range all {
			if before.objects.Has(each.uid) {
				continue
			}
			clean = false
			if err := s.remove(ctx, each); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("delete %s %s/%s: %w", each.resource.Resource, each.namespace, each.name, err)
			}
		}
		if clean {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("what was deleted is still there"), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// all lists every object that there is, namespaces last.
func (s *Server) all(ctx context.Context) ([]found, error) {
	lists, err := s.client.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var objects []found
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if left.Has(resource.Name) {
				continue
			}
			some, err := s.allOf(ctx, group.WithResource(resource.Name))
			if err != nil {
				return nil, err
			}
			objects = append(objects, some...)
		}
	}
	namespaces, err := s.allOf(ctx, corev1.SchemeGroupVersion.WithResource("namespaces"))
	return append(objects, namespaces...), err
}

func (s *Server) allOf(ctx context.Context, resource schema.GroupVersionResource) ([]found, error) {
	list, err := s.dynamic.Resource(resource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource.Resource, err)
	}
	var objects []found
	for i := range list.Items {
		o := &list.Items[i]
		objects = append(objects, found{resource, o.GetNamespace(), o.GetName(), o.GetUID()})
	}
	return objects, nil
}

// remove deletes an object at once. A namespace is empty by then, and doesn't wait for the controller that would see to that.
func (s *Server) remove(ctx context.Context, each found) error {
	now := int64(0)
	err := s.dynamic.Resource(each.resource).Namespace(each.namespace).
		Delete(ctx, each.name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &each.uid}})
	if err != nil || each.resource.Resource != "namespaces" {
		return err
	}
	none := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: each.name}}
	_, err = s.client.CoreV1().Namespaces().Finalize(ctx, none, metav1.UpdateOptions{})
	return err
}
