package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// manager is whom the objects' fields belong to.
const manager = "tulle-test"

// Apply creates or changes every object of some YAML, as kubectl apply --server-side --force-conflicts does; and where it has
// a status, writes that, too, which kubectl doesn't. Namespaces that objects are in are made if need be.
func (s *Server) Apply(ctx context.Context, text string) error {
	objects, err := parse(text)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := s.apply(ctx, object); err != nil {
			return fmt.Errorf("apply %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
	return nil
}

// Delete deletes every object of some YAML, at once. Those that aren't there are no error.
func (s *Server) Delete(ctx context.Context, text string) error {
	objects, err := parse(text)
	if err != nil {
		return err
	}
	for _, object := range objects {
		resource, err := s.resource(object.GroupVersionKind(), object.GetNamespace())
		if err != nil {
			return err
		}
		now := int64(0)
		err = resource.Delete(ctx, object.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
	return nil
}

// Get returns an object as it is on the server.
func (s *Server) Get(ctx context.Context, kind schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	resource, err := s.resource(kind, namespace)
	if err != nil {
		return nil, err
	}
	return resource.Get(ctx, name, metav1.GetOptions{})
}

func parse(text string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

func (s *Server) apply(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := s.resource(object.GroupVersionKind(), object.GetNamespace())
	if err != nil {
		return err
	}
	status, hasStatus := object.Object["status"]
	object = object.DeepCopy()
	delete(object.Object, "status")
	force := metav1.ApplyOptions{FieldManager: manager, Force: true}
	_, err = resource.Apply(ctx, object.GetName(), object, force)
	if apierrors.IsNotFound(err) && object.GetNamespace() != "" {
		if err := s.makeNamespace(ctx, object.GetNamespace()); err != nil {
			return err
		}
		_, err = resource.Apply(ctx, object.GetName(), object, force)
	}
	if err != nil || !hasStatus {
		return err
	}
	only := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	only.SetGroupVersionKind(object.GroupVersionKind())
	only.SetName(object.GetName())
	only.SetNamespace(object.GetNamespace())
	_, err = resource.ApplyStatus(ctx, object.GetName(), only, force)
	return err
}

func (s *Server) makeNamespace(ctx context.Context, name string) error {
	return s.Apply(ctx, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", name))
}

func (s *Server) resource(kind schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	mapping, err := s.mapper.find(kind)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return s.dynamic.Resource(mapping.Resource), nil
	}
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return s.dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// mapper knows the resource of each kind; it asks again about one that it doesn't know.
type mapper struct {
	lock sync.Mutex
	rest *restmapper.DeferredDiscoveryRESTMapper
}

func newMapper(client discovery.DiscoveryInterface) *mapper {
	return &mapper{rest: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))}
}

func (m *mapper) find(kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	mapping, err := m.rest.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		m.rest.Reset()
		mapping, err = m.rest.RESTMapping(kind.GroupKind(), kind.Version)
	}
	return mapping, err
}

// established waits until a resource definition is served.
func (s *Server) established(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return s.api.until(ctx, name+" isn't served", func(ctx context.Context) error {
		object, err := s.Get(ctx, definition, "", name)
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
		for _, each := range conditions {
			if c, ok := each.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return nil
			}
		}
		return errors.New("it isn't established")
	})
}

var definition = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
