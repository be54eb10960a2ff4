package capture

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// Direction is whether the pod of a connection is its client or its server.
type Direction uint8

// The directions, as the pod sees them.
const (
	Outbound Direction = iota
	Inbound
)

// Facts are what is known of a connection.
type Facts struct {
	Direction Direction
	Src       netip.AddrPort // the client
	Asked     netip.AddrPort // what it asked for; the zero AddrPort if that is a host, or unknown
	Host      string         // what it asked for, by name
	Next      netip.AddrPort // the next hop
	Tunnels   uint8          // between the nodes: none, one, or one in another
}

// Info describes a connection on debug pages.
type Info struct {
	Direction Direction
	Src       string // the client
	Original  string // what it asked for, "" if that is unknown
	Actual    string // the next hop
	Protocol  string // "HBONE", "DOUBLEHBONE" or "TCP", between the nodes
}

func (f Facts) info() Info {
	i := Info{Direction: f.Direction, Src: f.Src.String(), Original: f.Host, Actual: f.Next.String(), Protocol: [...]string{"TCP", "HBONE", "DOUBLEHBONE"}[f.Tunnels]}
	if f.Asked.IsValid() {
		i.Original = f.Asked.String()
	}
	return i
}

// Registry holds the connections of a pod from before they are decided until they end.
type Registry struct {
	quota *loop.Quota

	mu     sync.Mutex
	open   map[*Entry]struct{}
	closed error         // why nothing more is taken; nil while open
	empty  chan struct{} // closed when the last entry goes; nil while nobody waits
}

// Entry is one connection of a Registry.
type Entry struct {
	check    func() error
	registry *Registry
	sockets  int // that it takes of the quota

	// Guarded by the registry's lock:
	facts  Facts
	cut    func(reason error) // nil until there is something to cut
	reason error              // set when the entry was cut
}

// NewRegistry makes an empty registry of connections that take their sockets of a quota, if it isn't nil.
func NewRegistry(quota *loop.Quota) *Registry {
	return &Registry{quota: quota, open: map[*Entry]struct{}{}}
}

// sockets is how many a connection needs for itself: the client's and what it is joined with, unless that is a tunnel, which is
// shared; and where a tunnel is in another one, two between them.
func (f *Facts) sockets() int { return [...]int{2, 1, 3}[f.Tunnels] }

// Add registers a connection. check, if not nil, is called whenever the mesh's state changes, from any goroutine; its
// error cuts the connection. Add fails when the pod is stopping, and when its quota is used up.
func (r *Registry) Add(facts Facts, check func() error) (*Entry, error) {
	e := &Entry{facts: facts, check: check, registry: r, sockets: facts.sockets()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return nil, r.closed
	}
	if err := r.quota.Take(e.sockets); err != nil {
		return nil, err
	}
	r.open[e] = struct{}{}
	return e, nil
}

// OnCut says how to end the connection, once it is known. If the entry was cut before, it is called at once.
func (e *Entry) OnCut(cut func(reason error)) {
	e.registry.mu.Lock()
	reason := e.reason
	e.cut = cut
	e.registry.mu.Unlock()
	if reason != nil {
		cut(reason)
	}
}

// Leads says where the connection goes now, when that is not where it was registered for. Only whoever registered it may call it.
func (e *Entry) Leads(next netip.AddrPort, tunnels uint8) {
	if e.facts.Next == next && e.facts.Tunnels == tunnels { // nobody else writes them
		return
	}
	e.registry.mu.Lock()
	defer e.registry.mu.Unlock()
	e.facts.Next, e.facts.Tunnels = next, tunnels
}

// Cut ends the connection. Only the first reason counts.
func (e *Entry) Cut(reason error) {
	e.registry.mu.Lock()
	if e.reason != nil {
		e.registry.mu.Unlock()
		return
	}
	e.reason = reason
	cut := e.cut
	e.registry.mu.Unlock()
	if cut != nil {
		cut(reason)
	}
}

// Remove forgets the connection, which has ended.
func (e *Entry) Remove() {
	r := e.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, e)
	r.quota.Give(e.sockets)
	if len(r.open) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}

// Recheck asks every connection whether it may go on, and cuts those that may not.
func (r *Registry) Recheck() {
	for _, e := range r.entries() {
		if e.check == nil {
			continue
		}
		if err := e.check(); err != nil {
			e.Cut(err)
		}
	}
}

// Close takes no more connections, and cuts those there are.
func (r *Registry) Close(reason error) {
	r.mu.Lock()
	r.closed = reason
	r.mu.Unlock()
	for _, e := range r.entries() {
		e.Cut(reason)
	}
}

// Wait returns nil when there is no connection, or ctx's error.
func (r *Registry) Wait(ctx context.Context) error {
	r.mu.Lock()
	if len(r.open) == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.empty == nil {
		r.empty = make(chan struct{})
	}
	empty := r.empty
	r.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// List describes the connections of a direction, ordered by client.
func (r *Registry) List(direction Direction) []Info {
	var list []Info
	for _, facts := range r.facts() {
		if facts.Direction == direction {
			list = append(list, facts.info())
		}
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Src+" "+a.Original, b.Src+" "+b.Original) })
	return list
}

func (r *Registry) facts() []Facts {
	r.mu.Lock()
	defer r.mu.Unlock()
	facts := make([]Facts, 0, len(r.open))
	for e := range r.open {
		facts = append(facts, e.facts)
	}
	return facts
}

func (r *Registry) entries() []*Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := make([]*Entry, 0, len(r.open))
	for e := range r.open {
		entries = append(entries, e)
	}
	return entries
}
