package push

import (
	"slices"
	"strings"
)

// maxNames bounds what one proxy subscribes to by name. One that wants more asks for everything.
const maxNames = 100_000

// subscription is what a proxy wants of one type, and how far it was told. It belongs to the goroutine of its stream,
// but for the cursor.
type subscription struct {
	wildcard bool
	names    map[string]struct{} // without wildcard: asked for, or sent along
	node     string              // the proxy's
	cursor   *cursor

	started bool     // had its first answer
	known   versions // that the proxy had before it connected; nil after the first answer
	asked   []string // names to be answered, changed or not
	owed    bool     // an answer is due even if it is empty
}

// request takes in what the proxy asks for, and tells whether that exceeds the limit.
func (s *subscription) request(first bool, r *request) (ok bool) {
	if first {
		s.owed = true
		s.known = r.known
		s.wildcard = len(r.ResourceNamesSubscribe) == 0
		s.names = make(map[string]struct{})
	}
	for _, name := range r.ResourceNamesSubscribe {
		if name == "*" {
			s.started = s.started && s.wildcard // it wants everything, not only what changes from now on
			s.wildcard, s.owed = true, true
			continue
		}
		s.names[name] = struct{}{}
		s.asked = append(s.asked, name)
		s.owed = true
	}
	for _, name := range r.ResourceNamesUnsubscribe {
		if name == "*" {
			s.wildcard = false
			continue
		}
		delete(s.names, name)
	}
	return len(s.names) <= maxNames && len(s.asked) <= maxNames
}

// due tells whether there may be something to send now that the log is at head.
func (s *subscription) due(head uint64) bool { return s.owed || s.started && s.cursor.change < head }

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
	s.started, s.owed, s.known, s.asked = true, false, nil, nil
	return d, answer
}

// resume is the first answer to a proxy that wants everything: what differs from what it had, and what is no more.
func (s *subscription) resume(t *table) delta {
	d := t.since(0)
	had, gone := s.had(t)
	d.resources = slices.DeleteFunc(d.resources, func(r *resource) bool { return had[r] })
	slices.Sort(gone)
	d.removed = slices.Compact(gone)
	return d
}

// had are the resources that the proxy has as they are, and the names of those that are no more.
func (s *subscription) had(t *table) (same map[*resource]bool, gone []string) {
	if len(s.known) == 0 {
		return nil, nil
	}
	same = make(map[*resource]bool, len(t.byName))
	for name, version := range s.known.all {
		element := t.byName[string(name)]
		if element == nil || element.Value.(*entry).resource == nil {
			gone = append(gone, string(name))
			continue
		}
		if r := element.Value.(*entry).resource; r.version == string(version) {
			same[r] = true
		}
	}
	return same, gone
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
	had, _ := s.had(t)
	for e := range wanted {
		s.names[e.name] = struct{}{}
		if e.resource == nil || !had[e.resource] {
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
