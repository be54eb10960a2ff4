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

// input returns a function that takes one whole set after the other.
func (j *join) input() func([]model.Object) {
	var s set
	return func(objects []model.Object) {
		first := s.objects == nil
		j.add(s.take(objects), first)
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

// set is all objects of a folder. It is kept from one look to the next, as of many objects few change.
type set struct {
	objects map[model.Key]member
	looks   int
}

type member struct {
	object model.Object
	look   int // the last one that found it
}

// take tells what changed, now that the set is made of these objects.
func (s *set) take(objects []model.Object) (changes []model.Change) {
	if s.objects == nil {
		s.objects = make(map[model.Key]member, len(objects))
	}
	s.looks++
	for _, object := range objects {
		key := object.Key()
		if old, known := s.objects[key]; known && (old.object == object || reflect.DeepEqual(old.object, object)) {
			object = old.object
		} else {
			changes = append(changes, model.Change{Key: key, Object: object})
		}
		s.objects[key] = member{object, s.looks}
	}
	for key, m := range s.objects {
		if m.look != s.looks {
			delete(s.objects, key)
			changes = append(changes, model.Change{Key: key})
		}
	}
	return changes
}
