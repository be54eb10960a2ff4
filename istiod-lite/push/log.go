// Package push serves resources to proxies over delta xDS. All of them are kept once, encoded, in a log ordered by their
// last change; a proxy is a cursor in it, and what it is owed is whatever lies behind the cursor.
package push

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// The type URLs that are served. L7 is for waypoints only.
const (
	Address       = "type.googleapis.com/istio.workload.Address"
	Authorization = "type.googleapis.com/istio.security.Authorization"
	L7            = "type.googleapis.com/tulle.l7.v1.Resource"
)

// Update is a resource that came or changed, or went if Message is nil.
type Update struct {
	Type, Name string
	Message    proto.Message
}

// Log holds every resource with the number of the change that made it what it is. It is safe for concurrent use.
type Log struct {
	lock    sync.RWMutex
	tables  map[string]*table
	live    map[string]*live // by type, as tables
	head    atomic.Uint64    // number of the last change; written under the lock
	made    [1024]time.Time  // when the last changes were made, by number
	readers map[*cursor]struct{}
	views   views

	listeners atomic.Pointer[[]*listener]
}

// listener is told that there was a change, while it wants to be.
type listener struct {
	wants atomic.Bool
	kick  chan struct{} // gets an element then
}

func newListener() *listener { return &listener{kick: make(chan struct{}, 1)} }

// wake has the listener look again.
func (l *listener) wake() {
	select {
	case l.kick <- struct{}{}:
	default: // it hasn't looked yet
	}
}

// listen tells the listener of changes from now on.
func (l *Log) listen(one *listener) {
	l.lock.Lock()
	defer l.lock.Unlock()
	all := append(slices.Clone(*l.listeners.Load()), one)
	l.listeners.Store(&all)
}

func (l *Log) unlisten(one *listener) {
	l.lock.Lock()
	defer l.lock.Unlock()
	all := slices.DeleteFunc(slices.Clone(*l.listeners.Load()), func(each *listener) bool { return each == one })
	l.listeners.Store(&all)
}

// table holds the resources of one type. Those that went stay behind as graves until every reader has passed them.
type table struct {
	byName map[string]*list.Element // of *entry
	order  *list.List               // by change, oldest first
	index  index                    // of the live ones
	graves int
	recent *recent // nil after a change
}

// recent is what changed behind a change. Most readers ask for the same.
type recent struct {
	since uint64
	delta delta
}

// live are the resources of a type that there are, by the hash of their names. What proxies say that come back, ten thousand names
// each, is compared with these, since looking at each resource would cost most of the time.
type live struct {
	seed   maphash.Seed // nobody can foresee it, and so choose names with the same hash
	byHash map[uint64]version
	count  int   // of numbers of resources, in use or free
	free   []int // numbers
}

// version is that of a resource.
type version struct {
	sum    uint64
	number uint32 // of the resource
}

type entry struct {
	name     string
	change   uint64
	resource *resource // nil in a grave; shared by all streams
	keys     keys
}

// version is that of the resource, or empty in a grave.
func (e *entry) version() string {
	if e.resource == nil {
		return ""
	}
	return e.resource.version
}

// cursor says up to which change a reader knows a type. It is written under the locks of its stream and of the log, and read under
// either.
type cursor struct{ change uint64 }

// maxGraves is how many resources that went are kept per type before it is looked whether somebody needs them.
const maxGraves = 1024

// NewLog makes an empty log.
func NewLog() *Log {
	l := &Log{tables: newTables(), live: make(map[string]*live), readers: make(map[*cursor]struct{}), views: newViews()}
	l.listeners.Store(new([]*listener))
	for typeURL := range l.tables {
		l.live[typeURL] = &live{seed: maphash.MakeSeed(), byHash: make(map[uint64]version)}
	}
	return l
}

func newTables() map[string]*table {
	tables := make(map[string]*table)
	for _, typeURL := range order {
		tables[typeURL] = &table{byName: make(map[string]*list.Element), order: list.New(), index: newIndex()}
	}
	return tables
}

// Publish takes in what changed, as one change: readers see all of it or nothing. Resources that are as they were don't
// count. It returns how many did change, and an error for each that can't be encoded; those stay as they were.
func (l *Log) Publish(updates []Update) (changed int, failures []error) {
	encoded := make([]*resource, len(updates))
	failed := make(map[int]bool)
	for i, update := range updates {
		if update.Message == nil {
			continue
		}
		resource, err := encode(update)
		if err != nil {
			failed[i], failures = true, append(failures, err)
		}
		encoded[i] = resource
	}
	if changed = l.put(updates, encoded, failed); changed > 0 {
		for _, each := range *l.listeners.Load() {
			if each.wants.Load() {
				each.wake()
			}
		}
	}
	return changed, failures
}

// put takes in what was encoded, and tells how much of it is a change.
func (l *Log) put(updates []Update, encoded []*resource, failed map[int]bool) (changed int) {
	l.lock.Lock()
	defer l.lock.Unlock()
	next := l.head.Load() + 1
	for i, update := range updates {
		if !failed[i] && l.set(update.Type, entry{name: update.Name, change: next, resource: encoded[i], keys: keysOf(update.Message)}) {
			changed++
		}
	}
	if changed > 0 {
		l.refresh(next)
		l.made[next%uint64(len(l.made))] = time.Now()
		l.head.Store(next)
		l.fill(l.tables)
	}
	return changed
}

// set stores a resource, or buries it, and notes which waypoints that is about. It tells whether it made a difference.
func (l *Log) set(typeURL string, now entry) bool {
	t := l.tables[typeURL]
	var before entry
	if element := t.byName[now.name]; element != nil {
		before = *element.Value.(*entry)
	}
	if !t.set(now) {
		return false
	}
	l.live[typeURL].replace(before.resource, now.resource)
	l.views.note(typeURL, &before)
	l.views.note(typeURL, &now)
	return true
}

// replace notes what is instead of a resource; none is nil. What comes gets a number of its own, which it passes on to its next
// version, or which is free once it has gone.
func (l *live) replace(before, now *resource) {
	switch {
	case now == nil:
		delete(l.byHash, l.hash([]byte(before.name)))
		l.free = append(l.free, before.number)
		return
	case before != nil:
		now.number = before.number
	default:
		now.number = l.take()
	}
	l.byHash[l.hash([]byte(now.name))] = version{now.sum, uint32(now.number)}
}

// take takes a number.
func (l *live) take() int {
	if last := len(l.free) - 1; last >= 0 {
		number := l.free[last]
		l.free = l.free[:last]
		return number
	}
	l.count++
	return l.count - 1
}

func (l *live) hash(name []byte) uint64 { return maphash.Bytes(l.seed, name) }

// set stores a resource, or buries it, and tells whether that made a difference.
func (t *table) set(now entry) bool {
	element := t.byName[now.name]
	if element == nil {
		if now.resource == nil {
			return false
		}
		t.recent = nil
		t.byName[now.name] = t.order.PushBack(&now)
		t.index.add(t.byName[now.name])
		return true
	}
	e := element.Value.(*entry)
	if e.version() == now.version() {
		return false // both live and alike, or both gone
	}
	t.recent = nil
	if e.resource == nil {
		t.graves--
	}
	if now.resource == nil {
		t.graves++
	}
	t.index.remove(element)
	*e = now // readers may hold the old entry's resource, never the entry
	t.index.add(element)
	t.order.MoveToBack(element)
	return true
}

// fill removes graves that every reader has passed.
func (l *Log) fill(tables map[string]*table) {
	for _, t := range tables {
		if t.graves <= maxGraves {
			continue
		}
		passed := l.head.Load()
		for reader := range l.readers {
			passed = min(passed, reader.change)
		}
		for element := t.order.Front(); element != nil; {
			e, next := element.Value.(*entry), element.Next()
			if e.change > passed {
				break
			}
			if e.resource == nil {
				t.order.Remove(element)
				delete(t.byName, e.name)
				t.graves--
			}
			element = next
		}
	}
}

// open makes a cursor of a reader that hasn't read. What goes from now on leaves graves that it passes, though what it is told first
// is everything.
func (l *Log) open() *cursor {
	l.lock.Lock()
	defer l.lock.Unlock()
	c := &cursor{change: l.head.Load()}
	l.readers[c] = struct{}{}
	return c
}

func (l *Log) close(c *cursor) {
	l.lock.Lock()
	defer l.lock.Unlock()
	delete(l.readers, c)
}

// when a change was made; one long ago was made later than that. The log is locked.
func (l *Log) when(change uint64) time.Time {
	head, kept := l.head.Load(), uint64(len(l.made))
	return l.made[max(change, head+1-min(head, kept))%kept]
}

// All returns every resource of a type, in the order of their changes.
func (l *Log) All(typeURL string) []*discoveryv3.Resource {
	l.lock.RLock()
	defer l.lock.RUnlock()
	t := l.tables[typeURL]
	all := make([]*discoveryv3.Resource, 0, len(t.byName))
	for element := t.order.Front(); element != nil; element = element.Next() {
		if e := element.Value.(*entry); e.resource != nil {
			one := &discoveryv3.Resource{}
			if err := proto.Unmarshal(e.resource.message(), one); err != nil {
				panic(fmt.Sprintf("resource %s was encoded wrong: %v", e.name, err))
			}
			all = append(all, one)
		}
	}
	return all
}

// delta is what a reader of one type is owed.
type delta struct {
	resources []*resource
	removed   []string
}

// since returns what changed behind a change, oldest first.
func (t *table) since(change uint64) delta {
	if t.recent != nil && t.recent.since == change {
		return t.recent.delta
	}
	var d delta
	for e := range t.changed(change) {
		if e.resource != nil {
			d.resources = append(d.resources, e.resource)
		} else {
			d.removed = append(d.removed, e.name)
		}
	}
	d.resources, d.removed = slices.Clip(d.resources), slices.Clip(d.removed) // so that readers can't write behind
	t.recent = &recent{change, d}
	return d
}

// changed yields the entries behind a change, oldest first.
func (t *table) changed(change uint64) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for element := t.behind(change); element != nil; element = element.Next() {
			if !yield(element.Value.(*entry)) {
				return
			}
		}
	}
}

// behind returns the oldest entry behind a change, or nil.
func (t *table) behind(change uint64) *list.Element {
	element := t.order.Back()
	for element != nil && element.Value.(*entry).change > change {
		element = element.Prev()
	}
	if element == nil {
		return t.order.Front()
	}
	return element.Next()
}

// has tells whether there is a resource of the name.
func (t *table) has(name string) bool {
	element := t.byName[name]
	return element != nil && element.Value.(*entry).resource != nil
}

// get looks names up; those that aren't there are removed.
func (t *table) get(names []string) delta {
	var d delta
	for _, name := range names {
		if t.has(name) {
			d.resources = append(d.resources, t.byName[name].Value.(*entry).resource)
		} else {
			d.removed = append(d.removed, name)
		}
	}
	return d
}
