package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

// manager is the field manager of objects, as Istio's, so that what that has once written isn't left behind.
const manager = "istio.io/gateway-controller"

// ref names an object.
type ref struct {
	kind string
	reflector.Name
}

func refOf(o *unstructured.Unstructured) ref {
	return ref{o.GetKind(), reflector.Name{Namespace: o.GetNamespace(), Name: o.GetName()}}
}

// digest stands for an object.
type digest [sha256.Size]byte

// cluster is what is known of the objects that are made for Gateways, for as long as this control plane leads.
type cluster struct {
	lock    sync.Mutex
	kinds   map[string]bool // of which all were seen
	seen    map[ref]sight
	applied map[ref]applied
	class   bool // it is there, or it isn't known yet
}

// sight is an object as it was last seen.
type sight struct {
	digest     digest
	uid, owner string     // owner is the uid of the Gateway that controls it
	gateway    model.Name // by its label
}

// applied is what was last written, and what the object was after that.
type applied struct{ wanted, result digest }

func newCluster() *cluster {
	return &cluster{kinds: make(map[string]bool), seen: make(map[ref]sight), applied: make(map[ref]applied), class: true}
}

func (c *cluster) listed() bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return len(c.kinds) == len(kinds)
}

// follow keeps up with the objects of a kind that are made for Gateways. Changed is told whose have changed.
func (c *cluster) follow(ctx context.Context, cfg Config, k *kind, changed func(model.Name), all func()) {
	reflector.Objects[sight]{
		Kind: k.Kind, Client: cfg.Client.Resource(k.resource), Labels: model.ManagedLabel + "=" + managed, Log: cfg.Log,
		Read: look,
		Put: func(name reflector.Name, s sight) {
			c.lock.Lock()
			c.seen[ref{k.Kind, name}] = s
			c.lock.Unlock()
			changed(s.gateway)
		},
		Gone: func(name reflector.Name) {
			gone := ref{k.Kind, name}
			c.lock.Lock()
			s := c.seen[gone]
			delete(c.seen, gone)
			delete(c.applied, gone)
			c.lock.Unlock()
			changed(s.gateway)
		},
		Listed: func() {
			c.lock.Lock()
			c.kinds[k.Kind] = true
			c.lock.Unlock()
			all()
		},
	}.Follow(ctx)
}

// look notes what counts of an object.
func look(o *unstructured.Unstructured) sight {
	s := sight{digest: digestOf(o), uid: string(o.GetUID()), gateway: model.Name{Namespace: o.GetNamespace(), Name: o.GetLabels()[model.GatewayNameLabel]}}
	if owner := metav1.GetControllerOf(o); owner != nil {
		s.owner = string(owner.UID)
	}
	return s
}

// digestOf leaves out what changes without anybody's wish.
func digestOf(o *unstructured.Unstructured) digest {
	lean := &unstructured.Unstructured{Object: make(map[string]any, len(o.Object))}
	for field, value := range o.Object {
		if field != "status" {
			lean.Object[field] = value
		}
	}
	lean = lean.DeepCopy()
	for _, field := range []string{"resourceVersion", "managedFields", "generation"} {
		unstructured.RemoveNestedField(lean.Object, "metadata", field)
	}
	text, err := json.Marshal(lean.Object)
	if err != nil {
		panic(err) // it came as JSON
	}
	return sha256.Sum256(text)
}

// reconcile makes the objects of a Gateway what they should be. Its error is a *refusal where the objects can't be.
func (c *cluster) reconcile(ctx context.Context, client dynamic.Interface, g *model.Gateway, objects []*unstructured.Unstructured) error {
	var differ []*unstructured.Unstructured
	wanted := make(map[ref]bool)
	for _, o := range objects {
		wanted[refOf(o)] = true
		if !c.same(o) {
			differ = append(differ, o.DeepCopy())
		}
	}
	for _, o := range differ {
		if err := meet(ctx, client, g, o); err != nil {
			return err
		}
	}
	for _, o := range differ { // nothing is written if any of it couldn't be
		if _, err := write(ctx, client, o, metav1.DryRunAll); terminating(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	for _, o := range differ {
		written, err := write(ctx, client, o)
		if terminating(err) {
			return nil
		}
		if err != nil {
			return err
		}
		o.SetResourceVersion("")
		c.note(o, written)
	}
	return c.sweep(ctx, client, g, wanted)
}

// same tells whether an object is as it was after the same had been written.
func (c *cluster) same(o *unstructured.Unstructured) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	last, written := c.applied[refOf(o)]
	seen, there := c.seen[refOf(o)]
	return written && there && last.wanted == digestOf(o) && last.result == seen.digest
}

func (c *cluster) note(wanted, written *unstructured.Unstructured) {
	s := look(written)
	c.lock.Lock()
	defer c.lock.Unlock()
	c.seen[refOf(wanted)] = s
	c.applied[refOf(wanted)] = applied{digestOf(wanted), s.digest}
}

// meet looks at what is there in an object's place. What was made for another purpose is left alone; of what is ours, just that
// version is written.
func meet(ctx context.Context, client dynamic.Interface, g *model.Gateway, o *unstructured.Unstructured) error {
	found, err := client.Resource(kindOf(o.GetKind()).resource).Namespace(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	labels := found.GetLabels()
	if labels[model.ManagedLabel] != managed || labels[model.GatewayNameLabel] != g.Name {
		return &refusal{reason: notManaged, again: true, message: fmt.Sprintf(
			"%s %s isn't made for this Gateway, and is left alone: name another by annotation, or delete it, or hand it over by labels %s: %s and %s: %s",
			o.GetKind(), o.GetName(), model.ManagedLabel, managed, model.GatewayNameLabel, g.Name)}
	}
	o.SetResourceVersion(found.GetResourceVersion())
	return nil
}

// write applies an object. What the API server says can't be is a *refusal.
func write(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured, dry ...string) (*unstructured.Unstructured, error) {
	written, err := client.Resource(kindOf(o.GetKind()).resource).Namespace(o.GetNamespace()).
		Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true, DryRun: dry})
	switch {
	case err == nil:
		return written, nil
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err):
		return nil, &refusal{reason: invalidParameters, again: true, message: fmt.Sprintf("%s: %.2000s", o.GetKind(), err)}
	}
	return nil, fmt.Errorf("write %s %s: %w", o.GetKind(), o.GetName(), err)
}

// terminating tells that the namespace is about to go, where nothing is made any more.
func terminating(err error) bool { return apierrors.HasStatusCause(err, "NamespaceTerminating") }

// left are objects that the Gateway controls and that aren't wanted any more.
func (c *cluster) left(g *model.Gateway, wanted map[ref]bool) map[ref]sight {
	c.lock.Lock()
	defer c.lock.Unlock()
	left := make(map[ref]sight)
	for r, s := range c.seen {
		if s.gateway == g.Key().Name && s.owner == g.UID && !wanted[r] {
			left[r] = s
		}
	}
	return left
}

// sweep deletes what was made for the Gateway and isn't wanted any more.
func (c *cluster) sweep(ctx context.Context, client dynamic.Interface, g *model.Gateway, wanted map[ref]bool) error {
	for r, s := range c.left(g, wanted) {
		uid := types.UID(s.uid)
		err := client.Resource(kindOf(r.kind).resource).Namespace(r.Namespace).
			Delete(ctx, r.Name.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete %s %s: %w", r.kind, r.Name.Name, err)
		}
	}
	return nil
}
