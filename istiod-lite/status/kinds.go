package status

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// kinds finds where the API server has the objects of the model.
type kinds struct {
	client dynamic.Interface

	lock  sync.Mutex
	found map[model.Kind]dynamic.NamespaceableResourceInterface
}

// of returns the client for an object; nil if the API server doesn't have its kind.
func (k *kinds) of(ctx context.Context, key model.Key) (dynamic.ResourceInterface, error) {
	client, err := k.find(ctx, key.Kind)
	if err != nil || client == nil {
		return nil, err
	}
	if key.Namespace == "" {
		return client, nil
	}
	return client.Namespace(key.Namespace), nil
}

// find returns the client for a kind, of the best version that there is; nil if there is none.
func (k *kinds) find(ctx context.Context, kind model.Kind) (dynamic.NamespaceableResourceInterface, error) {
	k.lock.Lock()
	known := k.found[kind]
	k.lock.Unlock()
	if known != nil {
		return known, nil
	}
	described, ok := describe(kind)
	if !ok {
		return nil, fmt.Errorf("kind %s has no objects in Kubernetes", kind)
	}
	for _, version := range described.Versions {
		client := k.client.Resource(schema.GroupVersionResource{Group: described.Group, Version: version, Resource: described.Resource})
		_, err := client.List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k.lock.Lock()
		defer k.lock.Unlock()
		if k.found == nil {
			k.found = make(map[model.Kind]dynamic.NamespaceableResourceInterface)
		}
		k.found[kind] = client
		return client, nil
	}
	return nil, nil
}

// forget makes the next calls look again.
func (k *kinds) forget() {
	k.lock.Lock()
	defer k.lock.Unlock()
	clear(k.found)
}

// describe tells how Kubernetes calls a kind.
func describe(kind model.Kind) (decode.Kind, bool) {
	for _, k := range decode.Kinds() {
		if k.Model == kind && k.Resource != "" {
			return k, true
		}
	}
	return decode.Kind{}, false
}
