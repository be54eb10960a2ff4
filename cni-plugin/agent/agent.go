// Package agent decides which pods of its node are in the mesh, finds their network namespaces, and keeps both true:
// whatever changes, the objects or a namespace under a pod, is answered by enrolling and un-enrolling.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Home is where a pod lives.
type Home struct {
	*socket.Netns
	IPs []netip.Addr // none before anybody has said them
}

// Actions are the ways into the mesh and out of it. Calls for one pod never overlap; each may be repeated.
type Actions struct {
	// Adopt takes over what an earlier agent left in a namespace, and tells whether there was anything.
	Adopt func(pod pods.ID, at Home, how pods.Capture, wanted bool) (bool, error)
	// Enrol takes a pod in, or makes sure that it is in. It adopts what was left where nobody has before.
	Enrol func(ctx context.Context, pod pods.ID, at Home, how pods.Capture) error
	// Unenrol takes a living pod out. It may take minutes and is abandoned by ending ctx.
	Unenrol func(ctx context.Context, pod pods.ID, at Home) error
	// Forget drops a pod whose namespace is gone.
	Forget func(ctx context.Context, pod pods.ID) error
}

// Source hands on everything that is known, first when it is complete and then after every change, one call at a time,
// until the context ends, which isn't an error.
type Source func(ctx context.Context, apply func(pods.Set)) error

// Config has an Agent's parts. All are required, but those that say otherwise.
type Config struct {
	Node    string // pods that are bound to it are ours
	Rules   pods.Rules
	Source  Source
	Actions Actions
	Log     *slog.Logger
	// Find looks for a running pod's network namespace where neither its object nor the runtime has said where it is. It
	// returns an empty path for a pod that isn't to be found. Nil where nobody can look.
	Find func(pod pods.ID, ips []netip.Addr) (path string, err error)
	// Left tells that something outside of its network namespace, left by an earlier agent, says that the pod is enrolled.
	// Nil where nothing does.
	Left func(pods.ID) bool
	// Complete says that every pod has an object before the runtime starts it, so that one without must wait.
	Complete bool
	// Notice is told what a person should know about a pod. It must not block. Nil where nobody listens.
	Notice func(pod pods.ID, reason, message string)
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
	namespaces map[string]pods.Labels
	early      map[Named]string // paths of pods that the runtime stopped before the first objects were there; then nil
}

// New makes an Agent which does nothing before Run. The state file remembers where the container runtime said that pods
// live, for those whose object doesn't say it.
func New(cfg Config, stateFile string) *Agent {
	return &Agent{cfg: cfg, paths: newPaths(stateFile), workers: map[string]*worker{}, namespaces: map[string]pods.Labels{}, early: map[Named]string{}}
}

// Run follows the source until ctx ends. Then it waits for its workers and leaves every pod as it is.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.paths.load(); err != nil {
		a.cfg.Log.Warn("places of pods are forgotten", "err", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer a.running.Wait()
	defer a.stop()
	defer cancel(nil)
	err := a.cfg.Source(ctx, func(set pods.Set) {
		if err := a.apply(ctx, set); err != nil {
			cancel(err)
		}
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
func (a *Agent) apply(ctx context.Context, set pods.Set) error {
	a.mu.Lock()
	first := !a.loaded && !a.stopped
	fresh, homeless := a.wishLocked(set)
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

// notice tells whoever listens what a person should know about a pod.
func (a *Agent) notice(pod pods.ID, reason, message string) {
	if a.cfg.Notice != nil {
		a.cfg.Notice(pod, reason, message)
	}
}

// wishLocked hands every pod its wish. It returns the workers that are new, and the UIDs of pods whose remembered paths
// no longer count.
func (a *Agent) wishLocked(set pods.Set) (fresh []*worker, homeless []string) {
	a.namespaces = set.Namespaces
	present, claimed := map[string]bool{}, map[string]bool{}
	for _, pod := range set.Pods {
		if pod.Node != a.cfg.Node {
			continue
		}
		if present[pod.UID] {
			a.cfg.Log.Error("two pods have the same uid, the second is left out", "uid", pod.UID, "pod", pod.Key())
			continue
		}
		w, ok := a.workers[pod.UID]
		if !ok {
			w = newWorker(a, pod.ID)
			a.workers[pod.UID] = w
			fresh = append(fresh, w)
		}
		path := a.paths.get(pod.UID)
		stopped := a.stoppedEarlyAt(pod.ID, path)
		if path == "" || stopped {
			path = pod.Netns
		}
		if claimed[path] {
			a.cfg.Log.Error("two pods live in one network namespace, the second is taken for homeless", "netns", path, "pod", pod.Key())
			path = "" // whose identity would its traffic have?
		}
		present[pod.UID], claimed[path] = true, path != ""
		decision := a.cfg.Rules.Decide(pod, a.namespaces[pod.Namespace])
		if decision.Ignored != "" && decision.Ignored != w.wish.Ignored {
			a.cfg.Log.Warn("pod doesn't get what it asks for", "pod", pod.Key(), "why", decision.Ignored)
			a.notice(pod.ID, "AnnotationIgnored", decision.Ignored)
		}
		w.setLocked(wish{path: path, Decision: decision})
		w.runsAtLocked(pod.IPs)
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
		w.setLocked(wish{path: w.wish.path, gone: true, Decision: pods.Decision{Why: "pod deleted"}, taken: claimed[w.wish.path]})
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
	Ignored string    `json:"ignored,omitempty"` // what the pod asks for and doesn't get
	State   string    `json:"state"`             // out, enrolling, enrolled, un-enrolling
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

// findLocked returns the worker of a pod, rather that of one which isn't deleted; nil if there is none.
func (a *Agent) findLocked(pod Named) (found *worker) {
	for _, w := range a.workers {
		if pod.is(w.pod) && (found == nil || !w.wish.gone) {
			found = w
		}
	}
	return found
}
