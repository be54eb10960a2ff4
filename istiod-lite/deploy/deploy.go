// Package deploy makes of each Gateway of the waypoints' class what runs it: a ServiceAccount, a Deployment and a Service, and
// where it is asked for, what scales it and limits its disruption. It keeps them so, and says in the Gateway's status what
// became of it.
//
// What is made is a pure function of the Gateway, of the settings, and of the ConfigMaps with changes (render.go). It is written
// by server-side apply, all of it or nothing as far as the API server can tell before; an object that somebody else has made
// under the same name is never taken over. What isn't wanted any more is deleted; all goes with the Gateway, by ownership.
package deploy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
)

// Config is what a Writer needs.
type Config struct {
	Client   dynamic.Interface
	Settings Settings
	// Tell takes the status that a Gateway should have; nil if it is none of ours. It doesn't wait.
	Tell func(key model.Key, generation int64, status *Status)
	Log  *slog.Logger
}

// Writer deploys waypoints while this control plane leads.
type Writer struct {
	cfg        Config
	queue      *queue.Queue[model.Name] // Gateways, and the class, which has no namespace
	parameters *parameters

	lock      sync.Mutex
	waypoints map[model.Name]*Waypoint
	rejected  map[model.Name]rejection
	known     *cluster // nil while another leads
}

// rejection is a present state of a Gateway that can't be read.
type rejection struct {
	generation int64
	message    string
}

// New makes a Writer, which writes while it is run.
func New(c Config) *Writer {
	w := &Writer{cfg: c, waypoints: make(map[model.Name]*Waypoint), rejected: make(map[model.Name]rejection)}
	w.queue = queue.New(w.work, c.Log)
	w.parameters = &parameters{client: c.Client, namespace: c.Settings.Namespace, changed: w.all, log: c.Log, wake: make(chan struct{}, 1)}
	return w
}

// Put takes in what there is to know of a Gateway; nil if it is gone, or none of ours. It doesn't wait.
func (w *Writer) Put(name model.Name, waypoint *Waypoint) {
	w.lock.Lock()
	before := w.waypoints[name]
	if waypoint == nil {
		delete(w.waypoints, name)
	} else {
		w.waypoints[name] = waypoint
	}
	var refs []model.Name
	for _, each := range w.waypoints {
		if ref := reference(each.Gateway); ref.Name != "" && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	w.lock.Unlock()
	if reflect.DeepEqual(before, waypoint) {
		return
	}
	w.parameters.want(refs)
	w.queue.Add(name)
}

// Reject says that the present state of a Gateway can't be read; it can again if the message is empty.
func (w *Writer) Reject(name model.Name, generation int64, message string) {
	w.lock.Lock()
	if message == "" {
		delete(w.rejected, name)
	} else {
		w.rejected[name] = rejection{generation, message}
	}
	w.lock.Unlock()
	w.queue.Add(name)
}

// Run deploys until the context ends, which isn't an error. It is for the leader, once all Gateways were put that are there
// at the start.
func (w *Writer) Run(ctx context.Context) error {
	known := newCluster()
	w.lock.Lock()
	w.known = known
	w.lock.Unlock()
	defer func() {
		w.lock.Lock()
		defer w.lock.Unlock()
		w.known = nil
	}()
	w.queue.Run(ctx, func(ctx context.Context) {
		var group sync.WaitGroup
		for i := range kinds {
			group.Go(func() { known.follow(ctx, w.cfg, &kinds[i], w.queue.Add, w.all) })
		}
		group.Go(func() { known.followClass(ctx, w.cfg, w.queue.Add) })
		group.Go(func() { w.parameters.run(ctx) })
		w.all()
		group.Wait()
	})
	return nil
}

// all looks at every Gateway.
func (w *Writer) all() {
	w.lock.Lock()
	names := slices.Collect(maps.Keys(w.waypoints))
	w.lock.Unlock()
	for _, name := range names {
		w.queue.Add(name)
	}
}

// work does what there is to do about a Gateway, or the class.
func (w *Writer) work(ctx context.Context, name model.Name) error {
	w.lock.Lock()
	waypoint, rejected, known := w.waypoints[name], w.rejected[name], w.known
	w.lock.Unlock()
	switch {
	case known == nil:
		return nil
	case name == className:
		return known.makeClass(ctx, w.cfg.Client)
	case waypoint == nil:
		w.cfg.Tell(model.Key{Kind: model.KindGateway, Name: name}, 0, nil)
		return nil
	}
	failure, done := w.deploy(ctx, known, waypoint, rejected)
	if !done || apierrors.IsConflict(failure) { // somebody wrote meanwhile: nothing to tell yet
		return failure
	}
	generation := max(waypoint.Gateway.Generation, rejected.generation)
	status := waypoint.status(failure)
	w.cfg.Tell(waypoint.Gateway.Key(), generation, &status)
	var r *refusal
	if errors.As(failure, &r) && !r.again {
		w.cfg.Log.Debug("Gateway not deployed as it is", "object", name.String(), "reason", r.reason, "err", r.message)
		return nil // until it changes
	}
	return failure
}

// deploy makes the objects of a waypoint as they should be. Nothing is done, and said, before everything is known.
func (w *Writer) deploy(ctx context.Context, known *cluster, waypoint *Waypoint, rejected rejection) (failure error, done bool) {
	if rejected.message != "" {
		return refuse(invalid, "%s", rejected.message), true
	}
	if waypoint.Manual() {
		return nil, true
	}
	overlays, listed, err := w.parameters.of(waypoint.Gateway)
	if err != nil || !listed || !known.listed() {
		return err, err != nil
	}
	objects, err := w.cfg.Settings.render(waypoint, overlays)
	if err != nil {
		return err, true
	}
	return known.reconcile(ctx, w.cfg.Client, waypoint.Gateway, objects), true
}
