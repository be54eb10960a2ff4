package push

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxNames and maxNameBytes bound what one proxy subscribes to by name. One that wants more asks for everything.
	maxNames, maxNameBytes = 100_000, 16 << 20
	// maxName is longer than any name can be: a cluster's, a namespace's, an object's and an endpoint's, with what is between them.
	maxName = 2048
)

// subscription is what a proxy wants of one type, and how far it was told. Its stream's lock guards it.
type subscription struct {
	wildcard bool
	names    map[string]bool // without wildcard: asked for if true, else sent along while there is something of the name
	node     string          // the proxy's
	cursor   *cursor

	started bool     // had its first answer
	held    *held    // by the proxy before it connected; nil if nothing, and after the first answer
	asked   []string // names to be answered, changed or not
	bytes   int      // of the names that were asked for
	again   int      // of asked, those that were asked for before
	owed    bool     // an answer is due even if it is empty
}

// request takes in what the proxy asks for, and tells whether that exceeds the limit.
func (s *subscription) request(first bool, r *request) (ok bool) {
	if first {
		s.owed = true
		s.wildcard = len(r.ResourceNamesSubscribe) == 0
		s.names = make(map[string]bool)
	}
	for _, name := range r.ResourceNamesSubscribe {
		if name == "*" {
			s.started = s.started && s.wildcard // it wants everything, not only what changes from now on
			s.wildcard, s.owed = true, true
			continue
		}
		s.ask(name)
		s.owed = true
		if len(name) > maxName || !s.bounded() {
			return false
		}
	}
	for _, name := range r.ResourceNamesUnsubscribe {
		if name == "*" {
			s.wildcard = false
		}
	}
	if first && !s.wildcard {
		s.resubscribe(r.known)
	}
	for _, name := range r.ResourceNamesUnsubscribe {
		if s.names[name] {
			s.bytes -= len(name)
		}
		delete(s.names, name)
	}
	return s.bounded()
}

// ask subscribes to a name, and wants it answered.
func (s *subscription) ask(name string) {
	if s.names[name] {
		s.again += len(name)
	} else {
		s.names[name] = true
		s.bytes += len(name)
	}
	s.asked = append(s.asked, name)
}

// bounded tells that a proxy hasn't asked for too much.
func (s *subscription) bounded() bool {
	return len(s.names) <= maxNames && len(s.asked) <= maxNames && s.bytes+s.again <= maxNameBytes
}

// resubscribe asks for what a proxy by name has that comes back: it may say what that is only by its versions, even by empty ones.
func (s *subscription) resubscribe(has versions) {
	for name := range has.all {
		if !s.bounded() {
			return // which ends the stream
		}
		if _, already := s.names[string(name)]; !already {
			s.ask(string(name))
		}
	}
}

// due tells whether there may be something to send now that the log is at head.
func (s *subscription) due(head uint64) bool { return s.owed || s.started && s.cursor.change < head }

// unsent is when the oldest change was made that the proxy wasn't told; zero if there is none. The log is locked.
func (s *subscription) unsent(l *Log) time.Time {
	if !s.started || s.cursor.change == l.head.Load() {
		return time.Time{}
	}
	return l.when(s.cursor.change + 1)
}

// source is where a proxy's resources of one type come from.
type source struct {
	// unasked is what a proxy that wants everything gets: the log's table, or a waypoint's view of it.
	unasked *table
	// asked is where names are looked up: the same but for the addresses of waypoints, which may ask for any.
	asked *table
}

// take returns what is owed and moves the cursor to the log's head. answer is false if nothing has to be sent. The log is
// locked.
func (s *subscription) take(from source, head uint64) (d delta, answer bool) {
	switch {
	case !s.wildcard:
		d = s.pick(from.asked)
	case !s.started:
		d = s.resume(from.unasked)
	default:
		d = from.unasked.since(s.cursor.change)
	}
	switch {
	case !s.wildcard:
	case from.asked != from.unasked:
		d = s.beside(d, s.pick(from.asked), from)
	case s.started: // sent though they didn't change
		asked := from.unasked.get(s.asked)
		d.resources, d.removed = append(d.resources, asked.resources...), append(d.removed, asked.removed...)
	}
	answer = s.owed || len(d.resources)+len(d.removed) > 0
	s.cursor.change = head
	s.answered()
	return d, answer
}

// answered notes that all that is owed was taken.
func (s *subscription) answered() {
	s.started, s.owed, s.held, s.asked, s.again = true, false, nil, nil, 0
}

// resume is the first answer to a proxy that wants everything: what differs from what it had, and what is no more.
func (s *subscription) resume(t *table) delta {
	var d delta
	if s.held == nil {
		d.resources = make([]*resource, 0, len(t.byName)-t.graves)
	} else {
		d.removed = slices.DeleteFunc(s.held.gone, t.has)
	}
	for e := range t.changed(0) {
		switch {
		case e.resource == nil:
			if s.held != nil && e.change > s.held.change {
				d.removed = append(d.removed, e.name)
			}
		case !s.held.has(e):
			d.resources = append(d.resources, e.resource)
		}
	}
	slices.Sort(d.removed)
	d.removed = slices.Compact(d.removed)
	return d
}

// held is which resources of a table a proxy had, as they were at a change, and the names of those that were no more.
type held struct {
	change  uint64
	numbers []uint64 // a bit for each entry
	gone    []string
}

const (
	// batch is how many versions are looked up before others may go on.
	batch = 1024
	// maxGone bounds the names of a proxy that comes back which nothing has.
	maxGone = 4 * maxNames
)

// held finds out what a proxy has that comes back. Its cursor, open by now, keeps what goes from now on.
func (l *Log) held(typeURL string, from source, known versions, cursor *cursor) (*held, error) {
	if len(known) == 0 {
		return nil, nil
	}
	l.lock.RLock()
	defer l.lock.RUnlock()
	seen := 0
	now, scoped := l.live[typeURL], from.unasked != l.tables[typeURL]
	h := &held{change: cursor.change, numbers: make([]uint64, (now.count+63)/64)}
	for name, text := range known.all {
		if name == nil {
			return nil, errVersions
		}
		if seen++; seen%batch == 0 { // others don't wait for long; what changes meanwhile is told anyway
			l.lock.RUnlock()
			l.lock.RLock()
		}
		has, found := now.byHash[now.hash(name)]
		if sum, ok := parseVersion(text); ok && found && has.sum == sum {
			h.note(int(has.number))
		}
		if (!found || scoped) && !from.unasked.has(string(name)) {
			if !utf8.Valid(name) {
				return nil, errVersions // it can't be told as removed
			}
			h.gone = append(h.gone, string(name))
		}
		if len(h.gone) > maxGone {
			return nil, errGone
		}
	}
	return h, nil
}

// note notes that the proxy has the resource of a number. One that came since the cursor was opened is told anyway.
func (h *held) note(number int) {
	if number/64 < len(h.numbers) {
		h.numbers[number/64] |= 1 << (number % 64)
	}
}

// has tells whether the proxy has what is in an entry.
func (h *held) has(e *entry) bool {
	return h != nil && e.resource != nil && e.change <= h.change && h.numbers[e.resource.number/64]&(1<<(e.resource.number%64)) != 0
}

// beside joins what is in a view with what was asked for. What leaves the view stays if its name was asked for, and what
// isn't there for those who ask may be in the view.
func (s *subscription) beside(d, asked delta, from source) delta {
	sent := make(map[string]bool, len(d.resources))
	for _, r := range d.resources {
		sent[r.name] = true
	}
	for _, r := range asked.resources {
		if !sent[r.name] {
			d.resources = append(d.resources, r)
			sent[r.name] = true
		}
	}
	d.removed = slices.DeleteFunc(append(d.removed, asked.removed...), func(name string) bool {
		_, named := s.names[name]
		return sent[name] || from.unasked.has(name) || named && from.asked.has(name)
	})
	slices.Sort(d.removed)
	d.removed = slices.Compact(d.removed)
	return d
}

// pick is what changed of the names subscribed to, and what is asked for now. A name that means nothing is answered as
// removed, which tells the proxy that it needn't wait. What comes along is subscribed to from then on.
func (s *subscription) pick(t *table) delta {
	var d delta
	wanted := make(map[*entry]bool)
	for _, name := range s.asked {
		if _, still := s.names[name]; !still {
			continue
		}
		found := t.named(name)
		for _, e := range found {
			wanted[e] = true
		}
		if len(found) == 0 {
			d.removed = append(d.removed, name)
		}
	}
	s.gather(t, wanted)
	for e := range wanted {
		if _, asked := s.names[e.name]; !asked {
			s.names[e.name] = false
		}
		if !s.held.has(e) {
			s.add(&d, e)
		}
	}
	slices.SortFunc(d.resources, func(a, b *resource) int { return strings.Compare(a.name, b.name) })
	slices.Sort(d.removed)
	d.removed = slices.Compact(d.removed)
	return d
}

// gather adds what changed of the names, and of the proxy's node.
func (s *subscription) gather(t *table, wanted map[*entry]bool) {
	if s.node == "" && (len(s.names) == 0 || !s.started) {
		return
	}
	since := s.cursor.change
	if !s.started {
		since = 0
	}
	for e := range t.changed(since) {
		if s.started && s.wants(e) || s.node != "" && e.keys.node == s.node {
			wanted[e] = true
		}
	}
}

// wants tells whether a changed entry has a name that was subscribed to, or is among what such a name means.
func (s *subscription) wants(e *entry) bool {
	is := func(name string) bool {
		_, ok := s.names[name]
		return ok
	}
	return is(e.name) || slices.ContainsFunc(e.keys.aliases, is) || slices.ContainsFunc(e.keys.services, is)
}

// add puts an entry into what is sent, with its aliases, by which the proxy knows what it asked for.
func (s *subscription) add(d *delta, e *entry) {
	if e.resource == nil {
		d.removed = append(d.removed, e.name)
		if !s.names[e.name] {
			delete(s.names, e.name)
		}
		return
	}
	aliases := slices.Clone(e.keys.aliases)
	for _, name := range s.asked {
		if e.keys.contain(name) {
			aliases = append(aliases, name)
		}
	}
	d.resources = append(d.resources, e.resource.aliased(aliases))
}
