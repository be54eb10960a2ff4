package kube

import (
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// To the reflector a follower is where it puts items. Only their objects stay.
var _ cache.TransformingStore = (*follower)(nil)

// Add takes an object that came.
func (f *follower) Add(o any) error {
	f.metrics.event(f.kind, "add")
	f.take(o.(*item))
	return nil
}

// Update takes an object that changed.
func (f *follower) Update(o any) error {
	f.metrics.event(f.kind, "update")
	f.take(o.(*item))
	return nil
}

// Delete takes an object that went.
func (f *follower) Delete(o any) error {
	f.metrics.event(f.kind, "delete")
	f.drop(nameOf(o.(*item)))
	return nil
}

// Replace takes all objects that there are.
func (f *follower) Replace(all []any, _ string) error {
	stale := make(map[model.Name]struct{}, len(f.known))
	for _, name := range f.names() {
		stale[name] = struct{}{}
	}
	for _, o := range all {
		f.take(o.(*item))
		delete(stale, nameOf(o.(*item)))
	}
	for name := range stale {
		f.drop(name)
	}
	f.metrics.lists.WithLabelValues(f.kind.Kind).Inc()
	f.sync()
	return nil
}

// Resync isn't asked for.
func (f *follower) Resync() error { return nil }

// Transformer makes the reflector, while it gathers all objects anew, hold those that are known already and not another
// of each.
func (f *follower) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		i := o.(*item)
		if known := f.known[nameOf(i)]; known != nil && reflect.DeepEqual(known, i.object) {
			i.object = known
		}
		return i, nil
	}
}

func nameOf(i *item) model.Name { return model.Name{Namespace: i.Namespace, Name: i.Name} }

// names are those of all objects that are known, good or bad.
func (f *follower) names() []model.Name {
	return slices.Concat(slices.Collect(maps.Keys(f.known)), slices.Collect(maps.Keys(f.bad)))
}

// take puts an object's state in force. A state that can't be used is reported, and the one before stays in force; where
// there is none, one that fails closed takes its place.
func (f *follower) take(i *item) {
	if i.Name == "" {
		f.reject(Rejection{Kind: f.kind, Err: i.err})
		return
	}
	name, add := nameOf(i), f.feed.add
	old, another := f.known[name], f.another(name, i.UID)
	if another {
		f.mend(name)
		delete(f.known, name)
		add = f.feed.addAnew
	}
	if i.err != nil {
		f.refuse(i, add)
	} else {
		f.put(name, i.object, add)
	}
	if another && old != nil && f.known[name] == nil {
		f.feed.add(model.Change{Key: old.Key()})
	}
}

// another tells whether it is another object that had the name before, whose end nobody has seen.
func (f *follower) another(name model.Name, uid types.UID) bool {
	switch f.kind.Model {
	case model.KindPod, model.KindNode, model.KindEndpointSlice, model.KindReferenceGrant, model.KindMeshConfig:
		return false // nothing is written to them
	}
	before := f.uids[name]
	f.uids[name] = uid
	return before != "" && before != uid
}

// refuse reports a state that can't be used, once per reason.
func (f *follower) refuse(i *item, add func(model.Change)) {
	name := nameOf(i)
	first := f.known[name] == nil || f.standIns[name]
	if first {
		f.stand(name, i.closed, add)
	}
	if f.bad[name] == i.err.Error() {
		return
	}
	f.bad[name] = i.err.Error()
	f.count()
	rejection := Rejection{Kind: f.kind, Name: name, UID: string(i.UID), Generation: i.Generation, First: first, Err: i.err}
	if first {
		rejection.Closed = i.closed
	}
	f.reject(rejection)
}

// stand puts in force what closes for an object that never had a good state; nil if nothing does. It goes with the present state: that may be about
// others than the one before.
func (f *follower) stand(name model.Name, closed model.Object, add func(model.Change)) {
	switch {
	case closed == nil:
		f.remove(name)
	case !reflect.DeepEqual(f.known[name], closed):
		f.known[name], f.standIns[name] = closed, true
		add(model.Change{Key: closed.Key(), Object: closed})
	}
}

// put puts a good state in force. Most changes of objects are about what the mesh doesn't look at; those end here.
func (f *follower) put(name model.Name, object model.Object, add func(model.Change)) {
	wasBad := f.bad[name] != ""
	f.mend(name)
	old := f.known[name]
	switch {
	case object == nil:
		f.remove(name)
	case wasBad || old == nil || !reflect.DeepEqual(old, object):
		f.known[name] = object
		add(model.Change{Key: object.Key(), Object: object})
	}
}

// drop takes an object out that isn't there any more.
func (f *follower) drop(name model.Name) {
	delete(f.uids, name)
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
	for _, name := range f.names() {
		f.drop(name)
	}
	f.sync()
}

// mend forgets that an object is bad, and says so.
func (f *follower) mend(name model.Name) {
	if f.bad[name] != "" {
		delete(f.bad, name)
		delete(f.standIns, name)
		f.count()
		f.reject(Rejection{Kind: f.kind, Name: name})
	}
}

func (f *follower) count() { f.metrics.rejected.WithLabelValues(f.kind.Kind).Set(float64(len(f.bad))) }
