package kube

import (
	"context"
	"net/netip"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"golang.org/x/sync/errgroup"
)

// Follow hands on this node's pods and all namespaces, first when both are complete and then after every change, until the
// context ends, which isn't an error. While the API is away, what was known last stays in force.
func (c *Client) Follow(ctx context.Context, apply func(pods.Set)) error {
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(c.log.Handler()))
	changed := make(chan struct{}, 1)
	podStore, podInformer := c.podInformer(changed)
	namespaceStore, namespaceInformer := c.namespaceInformer(changed)
	group, ctx := errgroup.WithContext(ctx)
	for _, informer := range []cache.Controller{podInformer, namespaceInformer} {
		group.Go(func() error { informer.RunWithContext(ctx); return nil })
	}
	group.Go(func() error {
		if !cache.WaitForCacheSync(ctx.Done(), podInformer.HasSynced, namespaceInformer.HasSynced) {
			return nil
		}
		for ctx.Err() == nil {
			apply(collect(podStore, namespaceStore))
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		return nil
	})
	return group.Wait()
}

// notify tells of changes, however many, once.
func notify(changed chan struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// pod is what is kept of a pod's object.
type pod struct {
	metav1.ObjectMeta
	pods.Pod
}

// GetObjectMeta is for the store, which asks for the name.
func (p *pod) GetObjectMeta() metav1.Object { return &p.ObjectMeta }

func (c *Client) podInformer(changed chan struct{}) (cache.Store, cache.Controller) {
	see := func(object any) {
		if p, ok := object.(*pod); ok {
			c.published.see(p)
		}
		notify(changed)
	}
	return cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(c.core, "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", c.node)),
		ObjectType:    &corev1.Pod{},
		Transform:     keepPod,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    see,
			UpdateFunc: func(_, object any) { see(object) },
			DeleteFunc: func(object any) {
				if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = unknown.Obj
				}
				if p, ok := object.(*pod); ok {
					c.published.forget(p)
				}
				notify(changed)
			},
		},
	})
}

// mirrorAnnotation is on the object of a pod that a file on the node defines. It is the uid that the kubelet and the
// runtime know the pod by.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// keepPod drops what the agent has no use for: most of a pod's object.
func keepPod(object any) (any, error) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	uid := string(p.UID)
	if mirrored := p.Annotations[mirrorAnnotation]; mirrored != "" {
		uid = mirrored
	}
	kept := &pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		Pod: pods.Pod{
			ID:     pods.ID{UID: uid, Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.Spec.ServiceAccountName},
			Labels: pods.Labels(p.Labels).Decisive(), Annotations: pods.Labels(p.Annotations).Decisive(),
			Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			Ended: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		},
	}
	if state, ok := p.Annotations[redirectionAnnotation]; ok {
		kept.ObjectMeta.Annotations = map[string]string{redirectionAnnotation: state}
	}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			kept.IPs = append(kept.IPs, addr)
		}
	}
	return kept, nil
}

func (c *Client) namespaceInformer(changed chan struct{}) (cache.Store, cache.Controller) {
	namespaces := c.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	listWatch := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return namespaces.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return namespaces.Watch(ctx, options)
		},
	}
	return cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(listWatch, c.meta),
		ObjectType:    &metav1.PartialObjectMetadata{},
		Transform:     keepNamespace,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { notify(changed) },
			UpdateFunc: func(any, any) { notify(changed) },
			DeleteFunc: func(any) { notify(changed) },
		},
	})
}

func keepNamespace(object any) (any, error) {
	n, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: pods.Labels(n.Labels).Decisive(),
	}}, nil
}

func collect(podStore, namespaceStore cache.Store) pods.Set {
	var set pods.Set
	for _, object := range podStore.List() {
		if p, ok := object.(*pod); ok {
			set.Pods = append(set.Pods, p.Pod)
		}
	}
	namespaces := namespaceStore.List()
	set.Namespaces = make(map[string]pods.Labels, len(namespaces))
	for _, object := range namespaces {
		if n, ok := object.(*metav1.PartialObjectMetadata); ok {
			set.Namespaces[n.Name] = n.Labels
		}
	}
	return set
}
