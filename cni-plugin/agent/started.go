package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	lookUps     = 100
	lookUpPause = 10 * time.Millisecond
	maxEarly    = 4096 // pods that were stopped before the first objects were read
)

var errStarting = errors.New("the node agent is still reading its objects: try again")

// Named is a pod as the runtime names it.
type Named struct {
	Namespace, Name string
	UID             string // "" where it doesn't matter which of several pods, one after the other, of this name is meant
}

func (n Named) is(pod pods.ID) bool {
	return pod.Namespace == n.Namespace && pod.Name == n.Name && (n.UID == "" || n.UID == pod.UID)
}

// Started takes the container runtime's word that it starts a pod in the namespace at path, with these addresses, and returns when the pod is
// in the mesh, or at once with false if it needn't be. An error means that the pod must not start. A pod which nobody has
// heard of may start if its namespace isn't in the mesh, unless every pod has an object.
func (a *Agent) Started(ctx context.Context, pod Named, path string, ips []netip.Addr) (bool, error) {
	w, err := a.await(ctx, pod)
	if err != nil || w == nil {
		return false, err
	}
	a.mu.Lock()
	wanted := w.wish.In
	a.mu.Unlock()
	if !wanted {
		return false, nil
	}
	if err := a.paths.put(w.pod.UID, path); err != nil { // not under the lock, which everybody needs
		return false, err
	}
	if gone := a.settle(w, path, ips); gone {
		return false, errors.Join(fmt.Errorf("pod %s was deleted meanwhile", w.pod.Key()), a.paths.forget(w.pod.UID))
	}
	return true, a.ask(ctx, w)
}

// settle makes the path the one where the pod lives, unless the pod is gone.
func (a *Agent) settle(w *worker, path string, ips []netip.Addr) (gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.wish.gone {
		return true
	}
	next := w.wish
	next.path, w.wish.released = path, socket.NetnsID{}
	w.told = ips
	w.setLocked(next)
	return false
}

// Verify makes sure that a pod, if it should be in the mesh, really is.
func (a *Agent) Verify(ctx context.Context, pod Named) error {
	w, err := a.await(ctx, pod)
	if err != nil || w == nil {
		return err
	}
	a.mu.Lock()
	wanted := w.wish.In
	a.mu.Unlock()
	if !wanted {
		return nil
	}
	return a.ask(ctx, w)
}

// Stopped takes the runtime's word that it removes a pod's namespace, which was at path, and lets go of it: an open
// descriptor would keep it alive. Nothing is wrong with a pod that isn't known, nor with one that has moved on from there,
// for runtimes clear up late and more than once. An empty path is wherever the pod lives. An agent that doesn't know any pod
// yet keeps the word in mind.
func (a *Agent) Stopped(ctx context.Context, pod Named, path string) error {
	a.mu.Lock()
	w := a.findLocked(pod)
	if w == nil {
		defer a.mu.Unlock()
		return a.stoppedEarlyLocked(pod, path)
	}
	if path != "" && w.wish.path != "" && w.wish.path != path {
		a.mu.Unlock()
		return nil
	}
	w.releaseLocked()
	a.mu.Unlock()
	if err := a.paths.forget(w.pod.UID); err != nil {
		a.cfg.Log.Warn("forget where a pod lived", "pod", w.pod.Key(), "err", err)
	}
	if err := a.ask(ctx, w); err != nil && ctx.Err() != nil {
		return err
	}
	return nil // that it's homeless now is what was asked for
}

// stoppedEarlyLocked keeps a pod's name and path until the first objects are there.
func (a *Agent) stoppedEarlyLocked(pod Named, path string) error {
	if a.early == nil {
		return nil
	}
	if len(a.early) >= maxEarly {
		return errStarting
	}
	a.early[pod] = path
	return nil
}

// stoppedEarlyAt tells whether the runtime has removed the namespace at path, where the pod is said to live, before the first
// objects were there.
func (a *Agent) stoppedEarlyAt(pod pods.ID, path string) bool {
	for named, removed := range a.early {
		if named.is(pod) && (removed == "" || path == "" || removed == path) {
			return true
		}
	}
	return false
}

// await finds a pod's worker. The runtime is often faster than the pod's object, so it looks a few times. It returns nil
// for a pod that may start without being known.
func (a *Agent) await(ctx context.Context, pod Named) (*worker, error) {
	for range lookUps {
		a.mu.Lock()
		w, loaded, stopped := a.findLocked(pod), a.loaded, a.stopped
		gone := w != nil && w.wish.gone
		may := !a.cfg.Complete && !a.namespaces[pod.Namespace].Ambient() || a.cfg.Rules.Excludes(pod.Namespace)
		a.mu.Unlock()
		switch {
		case stopped || !loaded:
			return nil, errStarting
		case w != nil && !gone:
			return w, nil
		case may:
			return nil, nil
		}
		select {
		case <-time.After(lookUpPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("pod %s/%s isn't known to the node agent, and may belong to the mesh: try again", pod.Namespace, pod.Name)
}

// ask waits for an attempt that begins after now, and returns its outcome.
func (a *Agent) ask(ctx context.Context, w *worker) error {
	a.mu.Lock()
	w.asked++
	ticket := w.asked
	w.wakeUp()
	for w.report.answered < ticket {
		reported := w.reported
		a.mu.Unlock()
		select {
		case <-reported:
		case <-ctx.Done():
			return fmt.Errorf("pod %s isn't done in time: %w", w.pod.Key(), ctx.Err())
		}
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	return w.report.err
}
