// Package agent decides which pods of its node are in the mesh, finds their network namespaces, and keeps both true:
// whatever changes, the folder of objects or a namespace under a pod, is answered by enrolling and un-enrolling.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/folder"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Pod identifies a pod to the proxy.
type Pod struct {
	UID, Namespace, Name, ServiceAccount string
}

// Key is the pod's name as people know it.
func (p Pod) Key() string { return p.Namespace + "/" + p.Name }

// Actions are the ways into the mesh and out of it. Calls for one pod never overlap; each may be repeated.
type Actions struct {
	// Adopt takes over what an earlier agent left in a namespace, and tells whether there was anything.
	Adopt func(pod Pod, ns *socket.Netns, wanted bool) (bool, error)
	// Enrol takes a pod in, or makes sure that it is in.
	Enrol func(ctx context.Context, pod Pod, ns *socket.Netns) error
	// Unenrol takes a living pod out. It may take minutes and is abandoned by ending ctx.
	Unenrol func(ctx context.Context, pod Pod, ns *socket.Netns) error
	// Forget drops a pod whose namespace is gone.
	Forget func(ctx context.Context, pod Pod) error
}

// Config has an Agent's parts. All are required, but Loaded.
type Config struct {
	Node    string // pods with this spec.nodeName are ours
	Dir     string // folder of YAML with Pod and Namespace objects
	Actions Actions
	Log     *slog.Logger
	// Verify is how often each pod is looked at without being asked.
	Verify time.Duration
	// Loaded is called once, when the first set of objects is known and everything that an earlier agent left behind is
	// adopted, before anything changes. Its error ends Run.
	Loaded func() error
}

// Agent runs one worker per pod of the node. It is safe for concurrent use.
type Agent struct {
	cfg     Config
	paths   *paths
	running sync.WaitGroup // workers

	mu         sync.Mutex
	stopped    bool
	loaded     bool
	workers    map[string]*worker // by UID
	namespaces map[string]labels
	early      map[string]bool // keys of pods that the runtime stopped before the first objects were there; then nil
}

// New makes an Agent which does nothing before Run. The state file remembers where the container runtime said that pods
// live, for those whose object doesn't say it.
func New(cfg Config, stateFile string) *Agent {
	return &Agent{cfg: cfg, paths: newPaths(stateFile), workers: map[string]*worker{}, namespaces: map[string]labels{}, early: map[string]bool{}}
}

// Run follows the folder until ctx ends. Then it waits for its workers and leaves every pod as it is.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.paths.load(); err != nil {
		a.cfg.Log.Warn("places of pods are forgotten", "err", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer a.running.Wait()
	defer a.stop()
	defer cancel(nil)
	err := folder.Watch(ctx, a.cfg.Dir, folder.Config[object]{
		Decode: decode,
		Apply: func(objects []object) {
			if err := a.apply(ctx, objects); err != nil {
				cancel(err)
			}
		},
		Report: func(err error) { a.cfg.Log.Error("folder of objects", "err", err) },
	})
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// stop keeps apply's late calls and Add from starting workers that nobody would wait for.
func (a *Agent) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
}

// Retry lets every pod that waits for its next attempt try at once.
func (a *Agent) Retry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		w.wakeUp()
	}
}

// apply makes the whole set of objects the wish.
func (a *Agent) apply(ctx context.Context, objects []object) error {
	a.mu.Lock()
	first := !a.loaded && !a.stopped
	fresh, homeless := a.wishLocked(objects)
	a.mu.Unlock()
	if err := a.paths.forget(homeless...); err != nil {
		a.cfg.Log.Warn("forget where pods lived", "err", err)
	}
	if first {
		for _, w := range fresh {
			w.adoptEarly()
		}
		if a.cfg.Loaded != nil {
			if err := a.cfg.Loaded(); err != nil {
				return err
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.loaded = true
	if a.stopped {
		return nil
	}
	for _, w := range fresh {
		a.running.Go(func() { w.run(ctx) })
	}
	return nil
}

// wishLocked hands every pod its wish. It returns the workers that are new, and the UIDs of pods whose remembered paths
// no longer count.
func (a *Agent) wishLocked(objects []object) (fresh []*worker, homeless []string) {
	a.namespaces = map[string]labels{}
	for _, o := range objects {
		if o.kind == "Namespace" {
			a.namespaces[o.name] = o.labels
		}
	}
	present, claimed := map[string]bool{}, map[string]bool{}
	for _, o := range objects {
		if o.kind != "Pod" || o.node != a.cfg.Node {
			continue
		}
		pod := o.pod()
		if present[pod.UID] {
			a.cfg.Log.Error("two pods have the same uid, the second is left out", "uid", pod.UID, "pod", pod.Key())
			continue
		}
		w, ok := a.workers[pod.UID]
		if !ok {
			w = newWorker(a, pod)
			a.workers[pod.UID] = w
			fresh = append(fresh, w)
		}
		stopped := a.early[pod.Key()]
		path := a.paths.get(pod.UID)
		if path == "" || stopped {
			path = o.netns
		}
		if claimed[path] {
			a.cfg.Log.Error("two pods live in one network namespace, the second is taken for homeless", "netns", path, "pod", pod.Key())
			path = "" // whose identity would its traffic have?
		}
		present[pod.UID], claimed[path] = true, path != ""
		wanted, why := eligible(o, a.namespaces[o.namespace])
		w.setLocked(wish{path: path, wanted: wanted, why: why})
		if stopped {
			w.releaseLocked()
			homeless = append(homeless, pod.UID)
		}
	}
	a.early = nil
	return fresh, append(homeless, a.dismissLocked(present, claimed)...)
}

// dismissLocked tells the workers of pods that are no longer present to come to an end, and returns their UIDs. A
// namespace that a present pod claims isn't theirs to clear up.
func (a *Agent) dismissLocked(present, claimed map[string]bool) (gone []string) {
	for uid, w := range a.workers {
		if present[uid] {
			continue
		}
		gone = append(gone, uid)
		w.setLocked(wish{path: w.wish.path, gone: true, why: "pod deleted", taken: claimed[w.wish.path]})
	}
	return gone
}

// retire ends a worker whose pod is gone, unless the pod came back meanwhile.
func (a *Agent) retire(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !w.wish.gone {
		return false
	}
	delete(a.workers, w.pod.UID)
	return true
}

// View is one pod for debug pages.
type View struct {
	Pod     string    `json:"pod"`
	UID     string    `json:"uid"`
	Netns   string    `json:"netns"`
	Wanted  bool      `json:"wanted"`
	Why     string    `json:"why"`
	State   string    `json:"state"` // out, enrolling, enrolled, un-enrolling
	Since   time.Time `json:"since"`
	Retries int       `json:"retries,omitempty"` // failed attempts running
	Error   string    `json:"error,omitempty"`
}

// Views lists the node's pods by name.
func (a *Agent) Views() []View {
	a.mu.Lock()
	defer a.mu.Unlock()
	var views []View
	for _, uid := range slices.Sorted(maps.Keys(a.workers)) {
		views = append(views, a.workers[uid].viewLocked())
	}
	return views
}

// findLocked returns the worker of a pod that isn't deleted.
func (a *Agent) findLocked(namespace, name string) *worker {
	for _, w := range a.workers {
		if w.pod.Namespace == namespace && w.pod.Name == name && !w.wish.gone {
			return w
		}
	}
	return nil
}
