package model

// names is a set.
type names map[Name]struct{}

// grouping is a set of names per value of some attribute. Empty groups are removed.
type grouping[K comparable] map[K]names

func (g grouping[K]) add(key K, name Name) {
	group := g[key]
	if group == nil {
		group = make(names)
		g[key] = group
	}
	group[name] = struct{}{}
}

func (g grouping[K]) remove(key K, name Name) {
	group := g[key]
	delete(group, name)
	if len(group) == 0 {
		delete(g, key)
	}
}

// pair is one label within a namespace.
type pair struct{ namespace, key, value string }

// labelled holds objects that selectors look for, by each of their labels.
type labelled[T interface {
	Object
	labels() map[string]string
}] struct {
	all         map[Name]T
	byPair      grouping[pair]
	byNamespace grouping[string]
}

func newLabelled[T interface {
	Object
	labels() map[string]string
}]() *labelled[T] {
	return &labelled[T]{all: make(map[Name]T), byPair: make(grouping[pair]), byNamespace: make(grouping[string])}
}

// put stores an object, and takes out the one that it replaces.
func (l *labelled[T]) put(object T) {
	name := object.Key().Name
	l.drop(name)
	l.all[name] = object
	l.byNamespace.add(name.Namespace, name)
	for key, value := range object.labels() {
		l.byPair.add(pair{name.Namespace, key, value}, name)
	}
}

func (l *labelled[T]) drop(name Name) {
	old, ok := l.all[name]
	if !ok {
		return
	}
	delete(l.all, name)
	l.byNamespace.remove(name.Namespace, name)
	for key, value := range old.labels() {
		l.byPair.remove(pair{name.Namespace, key, value}, name)
	}
}

// selected calls visit with the objects of the namespace that have all labels of the selector. It walks only those that
// have the rarest of them.
func (l *labelled[T]) selected(namespace string, selector map[string]string, visit func(T)) {
	candidates := l.byNamespace[namespace]
	for key, value := range selector {
		if group := l.byPair[pair{namespace, key, value}]; len(group) < len(candidates) {
			candidates = group
		}
	}
	for name := range candidates {
		if object := l.all[name]; Selects(selector, object.labels()) {
			visit(object)
		}
	}
}

// Selects tells whether the labels have every pair of the selector.
func Selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// selecting holds objects with a selector, by one pair of it: labels find the objects that select them without a look at
// all. Selectors without a pair, which select everything, are kept under the empty pair of their namespace.
type selecting[T interface {
	Object
	selector() (map[string]string, bool)
}] struct {
	all         map[Name]T
	byPair      grouping[pair]
	byNamespace grouping[string]
}

func newSelecting[T interface {
	Object
	selector() (map[string]string, bool)
}]() *selecting[T] {
	return &selecting[T]{all: make(map[Name]T), byPair: make(grouping[pair]), byNamespace: make(grouping[string])}
}

// representative chooses the pair under which a selector is kept: the first by key, so always the same.
func representative(namespace string, selector map[string]string) pair {
	chosen := pair{namespace: namespace}
	for key, value := range selector {
		if chosen.key == "" || key < chosen.key {
			chosen.key, chosen.value = key, value
		}
	}
	return chosen
}

func (s *selecting[T]) put(object T) {
	name := object.Key().Name
	s.drop(name)
	s.all[name] = object
	s.byNamespace.add(name.Namespace, name)
	if selector, ok := object.selector(); ok {
		s.byPair.add(representative(name.Namespace, selector), name)
	}
}

func (s *selecting[T]) drop(name Name) {
	old, ok := s.all[name]
	if !ok {
		return
	}
	delete(s.all, name)
	s.byNamespace.remove(name.Namespace, name)
	if selector, ok := old.selector(); ok {
		s.byPair.remove(representative(name.Namespace, selector), name)
	}
}

// selectedBy calls visit with the objects of the namespace that select the labels.
func (s *selecting[T]) selectedBy(namespace string, labels map[string]string, visit func(T)) {
	check := func(at pair) {
		for name := range s.byPair[at] {
			object := s.all[name]
			if selector, _ := object.selector(); Selects(selector, labels) {
				visit(object)
			}
		}
	}
	check(pair{namespace: namespace})
	for key, value := range labels {
		check(pair{namespace, key, value})
	}
}
