// Package kube follows the objects of the mesh in the Kubernetes API, with client-go's reflector. Of each only what the model
// needs is kept, and only in the model: an object is made into the model's as it is decoded, and dropped.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Source is a cluster.
type Source struct {
	API *rest.Config
	// SystemNamespace is the control plane's own, where the settings of the mesh are.
	SystemNamespace string
	// Revisions are the control plane's names. What is labelled with another one is theirs, and isn't rejected if it can't be read.
	Revisions []string
	// Apply takes what changed. Its first call has everything, and comes when every kind was listed or is known to be
	// absent. Calls don't overlap; what changes during one is handed over at once after it.
	Apply func([]model.Change)
	// Reject takes objects whose state can't be used, and those of which it can again. It is called by several goroutines.
	Reject   func(Rejection)
	Registry prometheus.Registerer
	Log      *slog.Logger

	running atomic.Pointer[feed]
}

// Rejection is an object whose present state can't be used. What it said before stays in force.
type Rejection struct {
	Kind decode.Kind
	// Name is empty if not even that could be read.
	Name       model.Name
	UID        string
	Generation int64
	// First says that there is no usable state from before.
	First bool
	// Closed is what takes its place because there was no usable state before; nil if nothing does. See decode.Kind.Closed.
	Closed model.Object
	// Err is nil for an object that was rejected before and is right now, or gone.
	Err error
}

// Key is that of the object in the model.
func (r *Rejection) Key() model.Key { return model.Key{Kind: r.Kind.Model, Name: r.Name} }

// Run follows until the context ends, which isn't an error. An API server that can't be reached isn't one either: it is
// waited for.
func (s *Source) Run(ctx context.Context) error {
	kinds := decode.Kinds()
	kinds = slices.DeleteFunc(kinds, func(kind decode.Kind) bool { return kind.Resource == "" })
	clients, err := clientsFor(s.API, kinds, s.Revisions)
	if err != nil {
		return err
	}
	changes, counts := newFeed(kinds), newMetrics(s.Registry)
	changes.register(s.Registry, kinds)
	s.running.Store(changes)
	var group sync.WaitGroup
	defer group.Wait()
	for i, kind := range kinds {
		f := &follower{
			kind: kind, scope: s.narrow(kind), client: clients[i], feed: changes, reject: s.Reject,
			metrics: counts, log: s.Log.With("kind", kind.Kind),
			known: make(map[model.Name]model.Object), bad: make(map[model.Name]string), standIns: make(map[model.Name]bool), uids: make(map[model.Name]types.UID),
		}
		group.Go(func() { f.run(ctx) })
	}
	changes.run(ctx, s.Apply)
	return nil
}

// scope is which objects of a kind the API server is asked for. Empty fields leave none out.
type scope struct{ namespace, fields, labels string }

// narrow leaves out what can't mean anything.
func (s *Source) narrow(kind decode.Kind) scope {
	switch kind.Kind {
	case "Pod":
		return scope{fields: "status.phase!=Succeeded,status.phase!=Failed"}
	case "ConfigMap": // the mesh's settings, and authorities of backends, which are in any; of these every namespace has its own
		return scope{fields: "metadata.name!=istio-ca-root-cert,metadata.name!=istio-ca-crl,metadata.name!=kube-root-ca.crt"}
	case "EndpointSlice":
		// Kubernetes' own controller makes them of services with a selector: they say nothing that the pods don't.
		return scope{labels: discoveryv1.LabelManagedBy + "!=endpointslice-controller.k8s.io"}
	}
	return scope{}
}

// Pending says which kinds weren't listed yet, each with what is in the way.
func (s *Source) Pending() []string {
	f := s.running.Load()
	if f == nil {
		return nil
	}
	return f.pending()
}

// Lagging says which kinds' changes aren't followed at present, with what is in the way.
func (s *Source) Lagging() []string {
	f := s.running.Load()
	if f == nil {
		return nil
	}
	return f.lagging()
}

// feed gathers changes of all kinds for one reader. It holds at most one change per object, and of one that came again under its old name
// that the one before went: it has nothing of what was written to that.
type feed struct {
	wake chan struct{} // has room for one

	lock    sync.Mutex
	waiting map[string]error // kinds that weren't listed yet, with the last that was in the way, or nil
	lags    map[string]lag   // kinds of which no request succeeds
	changes map[model.Key]state
	since   time.Time            // when the first of the changes came
	waited  prometheus.Histogram // until they were handed over
}

// state is what became of an object.
type state struct {
	went bool         // one of the name
	now  model.Object // nil if there is none
}

func newFeed(kinds []decode.Kind) *feed {
	f := &feed{
		wake: make(chan struct{}, 1), waiting: make(map[string]error), lags: make(map[string]lag), changes: make(map[model.Key]state),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pilot_debounce_time", Help: "Seconds from a change until it is translated with all that came meanwhile. Nothing waits for quiet: it is what the changes before took.",
			Buckets: []float64{.001, .01, .1, .5, 1, 5},
		}),
	}
	for _, kind := range kinds {
		f.waiting[kind.Kind] = nil
	}
	return f
}

func (f *feed) add(change model.Change) { f.put(change, change.Object == nil) }

// addAnew takes an object of which another had the name before.
func (f *feed) addAnew(change model.Change) { f.put(change, true) }

func (f *feed) put(change model.Change, went bool) {
	f.lock.Lock()
	if len(f.changes) == 0 {
		f.since = time.Now()
	}
	f.changes[change.Key] = state{went: went || f.changes[change.Key].went, now: change.Object}
	f.lock.Unlock()
	f.notify()
}

// synced says that all of one more kind was added.
func (f *feed) synced(kind decode.Kind) {
	f.lock.Lock()
	delete(f.waiting, kind.Kind)
	f.lock.Unlock()
	f.notify()
}

// note takes what is in the way of a kind, or that nothing is.
func (f *feed) note(kind decode.Kind, err error) {
	if apierrors.IsForbidden(err) {
		err = fmt.Errorf("%w; apply deploy/rbac/istiod-lite.yaml", err)
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	if _, waits := f.waiting[kind.Kind]; waits {
		f.waiting[kind.Kind] = err
	}
	switch before, lags := f.lags[kind.Kind]; {
	case err == nil:
		delete(f.lags, kind.Kind)
	case lags:
		f.lags[kind.Kind] = lag{before.since, err}
	default:
		f.lags[kind.Kind] = lag{time.Now(), err}
	}
}

func (f *feed) pending() []string {
	f.lock.Lock()
	defer f.lock.Unlock()
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(f.waiting)) {
		if err := f.waiting[kind]; err != nil {
			kind = err.Error()
		}
		list = append(list, kind)
	}
	return list
}

func (f *feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run hands changes over until the context ends.
func (f *feed) run(ctx context.Context, apply func([]model.Change)) {
	first := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		changes, ready := f.gather()
		if ready && (first || len(changes) > 0) {
			first = false
			apply(changes)
		}
	}
}

// gather takes out what is there, unless not everything is.
func (f *feed) gather() (changes []model.Change, ready bool) {
	f.lock.Lock()
	defer f.lock.Unlock()
	if len(f.waiting) > 0 {
		return nil, false
	}
	taken := f.changes
	if len(taken) > 0 {
		f.waited.Observe(time.Since(f.since).Seconds())
	}
	f.changes = make(map[model.Key]state)
	for key, state := range taken {
		if state.went {
			changes = append(changes, model.Change{Key: key})
		}
		if state.now != nil {
			changes = append(changes, model.Change{Key: key, Object: state.now})
		}
	}
	return changes, true
}
