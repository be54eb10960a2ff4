package model

import (
	"iter"
	"maps"
)

// bag is a set. Most have one member, and cost no map.
type bag[T comparable] struct {
	one  T              // the only one; the zero value if there is none, or more
	more map[T]struct{} // all, from the second on
}

func (b *bag[T]) add(value T) {
	var none T
	switch {
	case b.more != nil:
		b.more[value] = struct{}{}
	case b.one == none || b.one == value:
		b.one = value
	default:
		b.more = map[T]struct{}{b.one: {}, value: {}}
		b.one = none
	}
}

func (b *bag[T]) remove(value T) {
	var none T
	delete(b.more, value)
	if b.one == value {
		b.one = none
	}
	if b.more != nil && len(b.more) == 0 {
		b.more = nil
	}
}

func (b *bag[T]) size() int {
	var none T
	if b.more == nil && b.one != none {
		return 1
	}
	return len(b.more)
}

func (b *bag[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		var none T
		if b.one != none {
			yield(b.one)
			return
		}
		for value := range b.more {
			if !yield(value) {
				return
			}
		}
	}
}

// grouping is a set of objects, or of their names, per value of some attribute. Empty groups are removed.
type grouping[K, T comparable] map[K]bag[T]

func (g grouping[K, T]) add(key K, value T) {
	group := g[key]
	group.add(value)
	g[key] = group
}

func (g grouping[K, T]) remove(key K, value T) {
	group := g[key]
	group.remove(value)
	if group.size() == 0 {
		delete(g, key)
		return
	}
	g[key] = group
}

// set adds the value, or removes it.
func (g grouping[K, T]) set(key K, value T, there bool) {
	if there {
		g.add(key, value)
	} else {
		g.remove(key, value)
	}
}

func (g grouping[K, T]) of(key K) iter.Seq[T] {
	group := g[key]
	return group.all()
}

// podID tells a pod from others that have the name before or after it.
type podID struct {
	Name
	uid string
}

// labelledObject is an object that selectors look for.
type labelledObject interface {
	comparable
	Object
	labels() Labels
}

// labelled holds objects that selectors look for, by namespace.
type labelled[T labelledObject] struct {
	spaces map[string]*space[T]
	count  int
}

// space holds the objects of a namespace. Those with the same labels form a twinset, and selectors look at those only.
type space[T labelledObject] struct {
	all     map[string]T
	sets    map[Labels]*twins[T]
	byLabel grouping[Label, *twins[T]]
}

type twins[T labelledObject] struct {
	labels  Labels
	members bag[T]
}

func newLabelled[T labelledObject]() *labelled[T] {
	return &labelled[T]{spaces: make(map[string]*space[T])}
}

func (l *labelled[T]) get(name Name) (object T) {
	if in := l.spaces[name.Namespace]; in != nil {
		object = in.all[name.Name]
	}
	return object
}

func (l *labelled[T]) put(object T) {
	name := object.Key().Name
	in := l.spaces[name.Namespace]
	if in == nil {
		in = &space[T]{all: make(map[string]T), sets: make(map[Labels]*twins[T]), byLabel: make(grouping[Label, *twins[T]])}
		l.spaces[name.Namespace] = in
	}
	l.count++
	in.all[name.Name] = object
	set := in.sets[object.labels()]
	if set == nil {
		set = &twins[T]{labels: object.labels()}
		in.sets[set.labels] = set
		for key, value := range set.labels.All() {
			in.byLabel.add(Label{key, value}, set)
		}
	}
	set.members.add(object)
}

// drop takes out an object that is there.
func (l *labelled[T]) drop(object T) {
	name := object.Key().Name
	in := l.spaces[name.Namespace]
	l.count--
	delete(in.all, name.Name)
	set := in.sets[object.labels()]
	set.members.remove(object)
	if set.members.size() == 0 {
		delete(in.sets, set.labels)
		for key, value := range set.labels.All() {
			in.byLabel.remove(Label{key, value}, set)
		}
	}
	if len(in.all) == 0 {
		delete(l.spaces, name.Namespace)
	}
}

// in yields the objects of a namespace.
func (l *labelled[T]) in(namespace string) iter.Seq[T] {
	return func(yield func(T) bool) {
		if in := l.spaces[namespace]; in != nil {
			for _, object := range in.all {
				if !yield(object) {
					return
				}
			}
		}
	}
}

// selected yields the objects of the namespace that have all labels of the selector. It walks only those that have the
// rarest of them.
func (l *labelled[T]) selected(namespace string, selector Labels) iter.Seq[T] {
	return func(yield func(T) bool) {
		for set := range l.twins(namespace, selector) {
			for object := range set.members.all() {
				if !yield(object) {
					return
				}
			}
		}
	}
}

// sets yields the labels of those objects, each set of them once.
func (l *labelled[T]) sets(namespace string, selector Labels) iter.Seq[Labels] {
	return func(yield func(Labels) bool) {
		for set := range l.twins(namespace, selector) {
			if !yield(set.labels) {
				return
			}
		}
	}
}

// twins yields those objects by their labels.
func (l *labelled[T]) twins(namespace string, selector Labels) iter.Seq[*twins[T]] {
	in := l.spaces[namespace]
	switch {
	case in == nil:
		return func(func(*twins[T]) bool) {}
	case selector.Empty():
		return maps.Values(in.sets)
	}
	var rarest bag[*twins[T]]
	first := true
	for key, value := range selector.All() {
		if sets := in.byLabel[Label{key, value}]; first || sets.size() < rarest.size() {
			rarest, first = sets, false
		}
	}
	return func(yield func(*twins[T]) bool) {
		for set := range rarest.all() {
			if selector.Selects(set.labels) && !yield(set) {
				return
			}
		}
	}
}

// has tells whether there are objects with exactly these labels.
func (l *labelled[T]) has(c crowd) bool {
	in := l.spaces[c.namespace]
	return in != nil && in.sets[c.labels] != nil
}

// selectingObject is an object that may look for others. The second result is false for one that doesn't.
type selectingObject interface {
	comparable
	Object
	selector() (Labels, bool)
}

// pair is one label within a namespace.
type pair struct {
	namespace string
	label     Label
}

// selecting holds objects with a selector, by one label of it: labels find the objects that select them without a look at
// all. Selectors without a label, which select everything, are kept under the empty label of their namespace.
type selecting[T selectingObject] struct {
	all         map[Name]T
	byLabel     grouping[pair, T]
	byNamespace grouping[string, T]
}

func newSelecting[T selectingObject]() *selecting[T] {
	return &selecting[T]{all: make(map[Name]T), byLabel: make(grouping[pair, T]), byNamespace: make(grouping[string, T])}
}

// representative chooses the label under which a selector is kept: the first by key, so always the same.
func representative(namespace string, selector Labels) pair {
	for key, value := range selector.All() {
		return pair{namespace, Label{key, value}}
	}
	return pair{namespace: namespace}
}

func (s *selecting[T]) put(object T) {
	name := object.Key().Name
	s.all[name] = object
	s.byNamespace.add(name.Namespace, object)
	if selector, ok := object.selector(); ok {
		s.byLabel.add(representative(name.Namespace, selector), object)
	}
}

func (s *selecting[T]) drop(object T) {
	name := object.Key().Name
	delete(s.all, name)
	s.byNamespace.remove(name.Namespace, object)
	if selector, ok := object.selector(); ok {
		s.byLabel.remove(representative(name.Namespace, selector), object)
	}
}

// selectedBy yields the objects of the namespace that select the labels.
func (s *selecting[T]) selectedBy(namespace string, labels Labels) iter.Seq[T] {
	return func(yield func(T) bool) {
		for object := range s.byLabel.of(pair{namespace: namespace}) {
			if !yield(object) {
				return
			}
		}
		for key, value := range labels.All() {
			for object := range s.byLabel.of(pair{namespace, Label{key, value}}) {
				if selector, _ := object.selector(); selector.Selects(labels) && !yield(object) {
					return
				}
			}
		}
	}
}
