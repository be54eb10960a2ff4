// Package watch follows a folder of the mesh's objects, and one in which node agents say which pods are enrolled, and tells what changed.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/folder"
)

// Files is a folder of Kubernetes objects as YAML, and beside it a folder in which the node agents say what is enrolled.
type Files struct {
	// Source and Status are paths; both folders must be there.
	Source, Status string
	// Apply takes what changed. Its first call has everything, and comes only when every file of Source was read without
	// an error. A file of Status that can't be used at the start says nothing until it is mended: it is about one node, and
	// must not keep the others from being served. Calls don't overlap.
	Apply func([]model.Change)
	// Report takes what can't be used, and why.
	Report func(error)
	Log    *slog.Logger
}

// Run follows both folders until the context ends, which isn't an error.
func (f Files) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	j := &join{apply: f.Apply, waiting: 2}
	d := newDecoder(f.Log)
	var failures [2]error
	var group sync.WaitGroup
	group.Go(func() {
		defer cancel()
		failures[0] = folder.Watch(ctx, f.Source, folder.Config[model.Object]{
			Decode: d.object, Apply: j.input(), Report: f.Report,
		})
	})
	group.Go(func() {
		defer cancel()
		failures[1] = folder.Watch(ctx, f.Status, folder.Config[model.Object]{
			Decode: enrolment, Apply: j.input(), Report: f.Report, Plain: true, Apart: true,
		})
	})
	group.Wait()
	return errors.Join(failures[:]...)
}

// join makes one stream of changes of several sets of objects.
type join struct {
	apply func([]model.Change)

	lock    sync.Mutex // held during apply, so that calls don't overlap
	waiting int        // sets that weren't heard of
	held    []model.Change
}

// input returns a function that takes what a folder says.
func (j *join) input() func(gone, came []model.Object) {
	first := true
	return func(gone, came []model.Object) {
		j.add(changes(gone, came), first)
		first = false
	}
}

func (j *join) add(changes []model.Change, first bool) {
	j.lock.Lock()
	defer j.lock.Unlock()
	j.held = append(j.held, changes...)
	if first {
		j.waiting--
	}
	if j.waiting > 0 || !first && len(changes) == 0 {
		return
	}
	held := j.held
	j.held = nil
	j.apply(held)
}

// changes tells what is different where files are written anew: most of their objects aren't.
func changes(gone, came []model.Object) (changes []model.Change) {
	before := make(map[model.Key]model.Object, len(gone))
	for _, object := range gone {
		before[object.Key()] = object
	}
	for _, object := range came {
		key := object.Key()
		if old, known := before[key]; !known || !reflect.DeepEqual(old, object) {
			changes = append(changes, model.Change{Key: key, Object: object})
		}
		delete(before, key)
	}
	for key := range before {
		changes = append(changes, model.Change{Key: key})
	}
	return changes
}
