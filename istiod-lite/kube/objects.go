package kube

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// take puts an object's state in force and returns its name. A state that can't be used is reported, and the one before
// stays in force; where there is none, one that fails closed takes its place.
func (f *follower) take(encoded encoding, data []byte) (model.Name, bool) {
	var meta metav1.PartialObjectMetadata
	err := encoded.fill(data, &meta)
	if err == nil && meta.Name == "" {
		err = errors.New("no name")
	}
	if err != nil {
		f.reject(Rejection{Kind: f.kind, Err: fmt.Errorf("an object without readable metadata: %w", err)})
		return model.Name{}, false
	}
	name := model.Name{Namespace: meta.Namespace, Name: meta.Name}
	fill := func(into any) error { return encoded.fill(data, into) }
	object, err := f.kind.Read(fill)
	if err != nil {
		f.refuse(&meta, err, f.kind.Closed(fill))
		return name, true
	}
	f.put(name, object)
	return name, true
}

// refuse reports a state that can't be used, once per reason.
func (f *follower) refuse(meta metav1.Object, err error, closed model.Object) {
	name := model.Name{Namespace: meta.GetNamespace(), Name: meta.GetName()}
	first := f.known[name] == nil
	if first && closed != nil {
		f.known[name] = closed
		f.feed.add(model.Change{Key: closed.Key(), Object: closed})
	}
	if f.bad[name] == err.Error() {
		return
	}
	f.bad[name] = err.Error()
	f.count()
	f.reject(Rejection{
		Kind: f.kind, Name: name, UID: string(meta.GetUID()), Generation: meta.GetGeneration(), First: first, Closed: first && closed != nil, Err: err,
	})
}

// put puts a good state in force. Most changes of objects are about what the mesh doesn't look at; those end here.
func (f *follower) put(name model.Name, object model.Object) {
	wasBad := f.bad[name] != ""
	f.mend(name)
	old := f.known[name]
	switch {
	case object == nil:
		f.remove(name)
	case wasBad || old == nil || !reflect.DeepEqual(old, object):
		f.known[name] = object
		f.feed.add(model.Change{Key: object.Key(), Object: object})
	}
}

// drop takes an object out that isn't there any more.
func (f *follower) drop(name model.Name) {
	f.mend(name)
	f.remove(name)
}

func (f *follower) remove(name model.Name) {
	if old := f.known[name]; old != nil {
		delete(f.known, name)
		f.feed.add(model.Change{Key: old.Key()})
	}
}

// absent takes out what is known of a kind that the API doesn't have.
func (f *follower) absent() {
	if !f.missed {
		f.log.Info("the API server doesn't have the kind, waiting for it to come")
	}
	f.missed = true
	for _, name := range slices.Concat(slices.Collect(maps.Keys(f.known)), slices.Collect(maps.Keys(f.bad))) {
		f.drop(name)
	}
	f.sync()
}

// mend forgets that an object is bad, and says so.
func (f *follower) mend(name model.Name) {
	if f.bad[name] != "" {
		delete(f.bad, name)
		f.count()
		f.reject(Rejection{Kind: f.kind, Name: name})
	}
}

func (f *follower) count() { f.metrics.rejected.WithLabelValues(f.kind.Kind).Set(float64(len(f.bad))) }
