package demand

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// Keep asks for what isn't known of a key, and keeps the answer, whether connections need it or not, until Release.
func (c *Cache) Keep(key Key) {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.kept[key]++
	c.mu.Unlock()
	c.Want(key)
}

// Release ends what Keep began.
func (c *Cache) Release(key Key) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept[key]--; c.kept[key] <= 0 {
		delete(c.kept, key)
	}
}

// Run forgets what no connection has needed for half an hour, until ctx ends.
func (c *Cache) Run(ctx context.Context) {
	if c == nil {
		return
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.mu.Lock()
			c.forgetLocked(c.idleLocked())
			c.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// idleLocked returns the keys whose time is over.
func (c *Cache) idleLocked() []Key {
	now := time.Since(c.began)
	return slices.DeleteFunc(c.answeredLocked(), func(key Key) bool { return now-c.asked[key].last() < idleTime })
}

// answeredLocked returns the keys that nobody waits for or keeps.
func (c *Cache) answeredLocked() []Key {
	var keys []Key
	for key, q := range c.asked {
		if !q.open && c.kept[key] == 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

func (q *question) last() time.Duration { return time.Duration(q.used.Load()) }

// makeRoomLocked forgets what there is not, or else a tenth of all, what was needed longest ago first. It tells whether that was of use.
func (c *Cache) makeRoomLocked() bool {
	answered := c.answeredLocked()
	keys := slices.DeleteFunc(slices.Clone(answered), func(key Key) bool { return c.asked[key].absent.IsZero() })
	if len(keys) == 0 {
		slices.SortFunc(answered, func(a, b Key) int { return cmp.Compare(c.asked[a].last(), c.asked[b].last()) })
		keys = answered[:min(len(answered), maxKeys/10)]
	}
	c.forgetLocked(keys)
	return len(keys) > 0
}

// forgetLocked unsubscribes from keys, and from what came by them and by no other key: it would go stale in the table.
func (c *Cache) forgetLocked(keys []Key) {
	if len(keys) == 0 {
		return
	}
	var names []string
	for _, key := range keys {
		delete(c.asked, key)
		delete(c.names, key.String())
		names = append(names, key.String())
	}
	unreached := c.unreachedLocked(c.cfg.Table())
	c.cfg.Forget(append(names, unreached...)...)
	if len(unreached) > 0 {
		c.cfg.Drop(unreached...)
	}
}

// unreachedLocked names what the table has by no key that was asked: neither itself, nor as an endpoint of a service.
func (c *Cache) unreachedLocked(t *state.Table) (names []string) {
	reached := map[string]bool{}
	for key := range c.asked {
		key.reach(t, reached)
	}
	for _, svc := range t.Services() {
		if name := serviceName(svc); !reached[name] {
			names = append(names, name)
		}
	}
	for _, w := range t.Workloads() {
		if !reached[w.UID] && !slices.ContainsFunc(w.Services, func(s state.ServicePorts) bool { return reached[s.Service] }) {
			names = append(names, w.UID)
		}
	}
	return names
}

func serviceName(svc *state.Service) string {
	return state.Name{Namespace: svc.Namespace, Name: svc.Hostname}.String()
}
