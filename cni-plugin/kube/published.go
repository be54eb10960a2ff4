package kube

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// redirectionAnnotation is where the control plane reads which pods have a tunnel port.
const redirectionAnnotation = "ambient.istio.io/redirection"

// published is what the API's pods say of their enrolment, and what we made them say.
type published struct {
	mu   sync.Mutex
	pods map[string]*publication // by the uid that the runtime knows
}

type publication struct {
	object types.UID    // of the pod's object
	said   status.State // by the object, as far as is known; "" is nothing
	ours   bool         // we made it say so
}

func newPublished() *published { return &published{pods: map[string]*publication{}} }

// see takes in what an object says. A change that isn't the last of ours is somebody else's, or on its way to being
// overtaken by ours; either way the next look at the pod sets it right.
func (p *published) see(seen *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	said := status.State(seen.ObjectMeta.Annotations[redirectionAnnotation])
	last, ok := p.pods[seen.Pod.UID]
	if !ok || last.object != seen.ObjectMeta.UID {
		p.pods[seen.Pod.UID] = &publication{object: seen.ObjectMeta.UID, said: said}
		return
	}
	last.ours = last.ours && last.said == said
	last.said = said
}

func (p *published) forget(gone *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.pods[gone.Pod.UID]; ok && last.object == gone.ObjectMeta.UID {
		delete(p.pods, gone.Pod.UID)
	}
}

// get returns what is known of a pod's object, nothing for one that is gone.
func (p *published) get(uid string) publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.pods[uid]; ok {
		return *last
	}
	return publication{}
}

func (p *published) set(uid string, object types.UID, state status.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.pods[uid]; ok && last.object == object {
		last.said, last.ours = state, true
	}
}

// Publish makes a pod's object say that it is enrolled. It returns when it does.
func (c *Client) Publish(pod pods.ID, state status.State) error {
	return c.annotate(pod, state, fmt.Sprintf("%q", state))
}

// Withdraw makes a pod's object say nothing. A pod whose object is gone has nothing to withdraw.
func (c *Client) Withdraw(pod pods.ID) error { return c.annotate(pod, "", "null") }

// Says returns what the object of the pod with this uid says, whoever made it; "" is nothing.
func (c *Client) Says(uid string) status.State { return c.published.get(uid).said }

// Enabled tells that a pod's object says enabled, and that it was us who made it: what an earlier agent has said of it may
// have been true of another network namespace, before the node's last start.
func (c *Client) Enabled(pod pods.ID) bool {
	now := c.published.get(pod.UID)
	return now.ours && now.said == status.Enabled
}

func (c *Client) annotate(pod pods.ID, state status.State, value string) error {
	now := c.published.get(pod.UID)
	switch {
	case now.object == "" && state == "":
		return nil
	case now.object == "":
		return fmt.Errorf("publish that pod %s is %s: it isn't there any more", pod.Key(), state)
	case now.said == state:
		c.published.set(pod.UID, now.object, state)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	// With its uid in the patch, the next pod of the same name is refused by the API.
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:%s}}}`, now.object, redirectionAnnotation, value)
	err := c.core.Patch(types.MergePatchType).Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("status").
		VersionedParams(&metav1.PatchOptions{FieldManager: component}, metav1.ParameterCodec).Body(patch).Do(ctx).Error()
	if state == "" && (apierrors.IsNotFound(err) || apierrors.IsConflict(err)) {
		return nil // gone, or followed by another
	}
	if err != nil {
		return fmt.Errorf("annotate pod %s: %w", pod.Key(), err)
	}
	c.published.set(pod.UID, now.object, state)
	return nil
}
