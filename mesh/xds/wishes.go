package xds

import (
	"maps"
	"slices"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// wildcard is the name that stands for all resources.
const wildcard = "*"

// wishes are the names that were asked of one type.
type wishes struct {
	typeURL string
	changed chan struct{} // has room for one

	mu        sync.Mutex
	names     map[string]bool // asked and not forgotten
	ask, drop []string        // what the server wasn't told yet
	forgotten []string        // whose versions are to be forgotten
}

func newWishes(typeURL string) *wishes {
	return &wishes{typeURL: typeURL, changed: make(chan struct{}, 1), names: map[string]bool{}}
}

// Ask subscribes to resources of a type in ByName, by names or aliases. The answer to each, even if it was asked before, is
// a resource that has the name or alias, or its removal. It may be called from any goroutine, and whether there is a stream
// or not.
func (c *Client) Ask(typeURL string, names ...string) {
	c.wishes[typeURL].change(func(w *wishes) {
		for _, name := range names {
			if w.names[name] {
				w.drop = append(w.drop, name) // else a server needn't answer
			}
			w.names[name] = true
		}
		w.ask = append(w.ask, names...)
	})
}

// Forget ends what Ask began, for aliases as well as for resources that came along.
func (c *Client) Forget(typeURL string, names ...string) {
	c.wishes[typeURL].change(func(w *wishes) {
		for _, name := range names {
			delete(w.names, name)
		}
		w.ask = slices.DeleteFunc(w.ask, func(name string) bool { return !w.names[name] })
		w.drop = append(w.drop, names...)
		w.forgotten = append(w.forgotten, names...)
	})
}

func (w *wishes) change(f func(*wishes)) {
	w.mu.Lock()
	f(w)
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default: // whoever follows looks anyway
	}
}

// renew makes the first request of a stream. It asks for everything anew that we hold, what came along included: else we
// would not learn that it is gone. Without names it says that nothing is wanted, where no names would mean everything.
func (w *wishes) renew(request *discoveryv3.DeltaDiscoveryRequest, held map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(held)
	names := maps.Clone(w.names)
	for name := range held {
		names[name] = true
	}
	request.ResourceNamesSubscribe = append(slices.Sorted(maps.Keys(names)), wildcard)
	request.ResourceNamesUnsubscribe = []string{wildcard}
	w.ask, w.drop = nil, nil
}

// forget takes the versions of forgotten names away. Run calls it, which owns held.
func (w *wishes) forget(held map[string]string) {
	for _, name := range w.forgotten {
		if !w.names[name] {
			delete(held, name)
		}
	}
	w.forgotten = nil
}

// requests are what the server has to be told: first what is no longer wanted.
func (w *wishes) requests() []*discoveryv3.DeltaDiscoveryRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*discoveryv3.DeltaDiscoveryRequest
	if len(w.drop) > 0 {
		list = append(list, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: w.typeURL, ResourceNamesUnsubscribe: w.drop})
	}
	if len(w.ask) > 0 {
		list = append(list, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: w.typeURL, ResourceNamesSubscribe: w.ask})
	}
	w.ask, w.drop = nil, nil
	return list
}

// follow tells the server of every change while a stream lasts. The error is that the server doesn't read.
func (w *wishes) follow(s *sender) error {
	for {
		for _, request := range w.requests() {
			if err := s.send(request); err != nil {
				return err
			}
		}
		select {
		case <-w.changed:
		case <-s.ctx.Done():
			return nil
		case <-s.done:
			return nil
		}
	}
}
