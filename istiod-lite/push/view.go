package push

import "container/list"

// Waypoint says what a waypoint is, and by that which resources it needs.
type Waypoint struct {
	// Gateway is "namespace/name" of the object that it is an instance of, Class that one's class.
	Gateway, Class string
	// Service is "namespace/hostname" of the service before its instances, by which services name their waypoint.
	Service string
	// Namespace is the gateway's, RootNamespace that of policies about the whole mesh: L4 policies of both are its own.
	Namespace, RootNamespace string
}

// base is what it wants whatever is bound to it.
func (w Waypoint) base() []label {
	labels := []label{{behind, w.Service}, {bound, w.Service}, {aboutGateway, w.Gateway}, {aboutClass, w.Class}, {inNamespace, w.Namespace}}
	if w.RootNamespace != w.Namespace {
		labels = append(labels, label{inNamespace, w.RootNamespace})
	}
	return labels
}

// view is the part of a log that the instances of a waypoint need, as tables of its own, with the same encoded resources.
// What comes into it or leaves it is a change in these tables. Guarded by the log's lock.
type view struct {
	waypoint Waypoint
	tables   map[string]*table
	wants    map[label]int      // by how many reasons
	granted  map[member][]label // by what is in the view
	touched  map[member]struct{}
	streams  int
}

// member names a resource.
type member struct{ typeURL, name string }

// views are those of the waypoints that are connected.
type views struct {
	byWaypoint map[Waypoint]*view
	byLabel    map[label]map[*view]struct{} // who wants a label
	touched    map[*view]struct{}
}

func newViews() views {
	return views{byWaypoint: make(map[Waypoint]*view), byLabel: make(map[label]map[*view]struct{}), touched: make(map[*view]struct{})}
}

// touch notes that a resource has to be looked at.
func (v *views) touch(view *view, m member) {
	view.touched[m] = struct{}{}
	v.touched[view] = struct{}{}
}

// note touches a resource in the views that want one of its labels.
func (v *views) note(typeURL string, e *entry) {
	for label := range labelsOf(typeURL, e) {
		for view := range v.byLabel[label] {
			v.touch(view, member{typeURL, e.name})
		}
	}
}

// openView returns the view of a waypoint; every call needs one of closeView.
func (l *Log) openView(w Waypoint) *view {
	l.lock.Lock()
	defer l.lock.Unlock()
	one := l.views.byWaypoint[w]
	if one == nil {
		one = &view{
			waypoint: w, tables: newTables(),
			wants: make(map[label]int), granted: make(map[member][]label), touched: make(map[member]struct{}),
		}
		l.views.byWaypoint[w] = one
		for _, label := range w.base() {
			l.want(one, label)
		}
		l.refresh(l.head.Load())
	}
	one.streams++
	return one
}

func (l *Log) closeView(v *view) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if v.streams--; v.streams > 0 {
		return
	}
	for label := range v.wants {
		l.views.forget(v, label)
	}
	delete(l.views.byWaypoint, v.waypoint)
}

func (v *views) forget(view *view, of label) {
	delete(v.byLabel[of], view)
	if len(v.byLabel[of]) == 0 {
		delete(v.byLabel, of)
	}
}

// refresh brings the views up to date, as part of a change. What it costs goes by what comes and goes.
func (l *Log) refresh(change uint64) {
	for len(l.views.touched) > 0 {
		for view := range l.views.touched {
			delete(l.views.touched, view)
			members := view.touched
			view.touched = make(map[member]struct{})
			for m := range members {
				l.settle(view, m, change)
			}
			l.fill(view.tables)
		}
	}
}

// settle puts a resource into a view, or out of it, and what the view wants because of it.
func (l *Log) settle(v *view, m member, change uint64) {
	now := entry{name: m.name, change: change}
	var grants []label
	if element := l.tables[m.typeURL].byName[m.name]; element != nil {
		if e := element.Value.(*entry); e.resource != nil && v.needs(m.typeURL, e) {
			now.resource, grants = e.resource, v.grants(e)
		}
	}
	if t := v.tables[m.typeURL]; !t.set(now) && now.resource != nil {
		t.byName[m.name].Value.(*entry).resource = now.resource // with another number, if it was gone in between
	}
	old := v.granted[m]
	if len(grants) > 0 {
		v.granted[m] = grants
	} else {
		delete(v.granted, m)
	}
	for _, label := range grants {
		l.want(v, label)
	}
	for _, label := range old {
		l.unwant(v, label)
	}
}

func (v *view) needs(typeURL string, e *entry) bool {
	for label := range labelsOf(typeURL, e) {
		if v.wants[label] > 0 {
			return true
		}
	}
	return false
}

// grants is what an entry makes the view want. Services that are here only as the backends of a route bring their
// workloads and nothing else; the waypoint's own service tells at which addresses it may be named.
func (v *view) grants(e *entry) []label {
	if e.name == v.waypoint.Service {
		var labels []label
		for _, alias := range e.keys.aliases {
			labels = append(labels, label{bound, alias})
		}
		return labels
	}
	for _, label := range e.keys.scope.labelled() {
		if v.wants[label] > 0 {
			return e.keys.scope.grants
		}
	}
	return nil
}

func (l *Log) want(v *view, of label) {
	if v.wants[of]++; v.wants[of] > 1 {
		return
	}
	wanting := l.views.byLabel[of]
	if wanting == nil {
		wanting = make(map[*view]struct{})
		l.views.byLabel[of] = wanting
	}
	wanting[v] = struct{}{}
	l.touchAll(v, of)
}

func (l *Log) unwant(v *view, of label) {
	if v.wants[of]--; v.wants[of] > 0 {
		return
	}
	delete(v.wants, of)
	l.views.forget(v, of)
	l.touchAll(v, of)
}

// touchAll touches what has the label.
func (l *Log) touchAll(v *view, of label) {
	touch := func(typeURL string, elements []*list.Element) {
		for _, element := range elements {
			l.views.touch(v, member{typeURL, element.Value.(*entry).name})
		}
	}
	for typeURL, t := range l.tables {
		touch(typeURL, t.index.byLabel[of])
	}
	if of.why == behind {
		l.views.touch(v, member{Address, of.name})
		touch(Address, l.tables[Address].index.byKey[of.name])
	}
}
