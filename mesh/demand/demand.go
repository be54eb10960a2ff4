// Package demand learns from the control plane only the part of the mesh that connections need, when they need it. It knows
// what was asked and answered; the answers themselves are in the tables of mesh/state.
//
// Whoever decides about a connection first asks Missing, which never waits. If something is missing, it lets Learn wait for
// it, elsewhere if it must not wait itself, and decides then.
package demand

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

const (
	// patience is how long a connection waits for an answer.
	patience = 5 * time.Second
	// absentFor is how long the answer holds that there is no such thing, unless the control plane tells otherwise: not
	// every one tells when an address that was asked for begins to mean something.
	absentFor = 10 * time.Second
	// maxKeys bounds what is asked at a time; control planes take about twice of it.
	maxKeys = 50_000
	// idleTime is how long an answer is kept that no connection needs.
	idleTime = 30 * time.Minute
	// sweepInterval is how often it is looked for such answers.
	sweepInterval = time.Minute
	// rounds is how often an answer may lead to the next question: an address, its waypoint, the gateway of that.
	rounds = 4
)

// Key is what can be asked for.
type Key struct {
	address state.NetworkAddress // if valid
	name    string               // else a workload's uid or a service's "namespace/hostname"
}

// Address is whatever has an address: a workload, or services.
func Address(network string, ip netip.Addr) Key {
	return Key{address: state.NetworkAddress{Network: network, Addr: ip.Unmap()}}
}

// Workload is the workload of that uid.
func Workload(uid string) Key { return Key{name: uid} }

// Host is what has the hostname in a namespace.
func Host(name state.Name) Key { return Key{name: name.String()} }

// String returns the key as the control plane knows it.
func (k Key) String() string {
	if k.address.Addr.IsValid() {
		return k.address.Network + "/" + k.address.Addr.String()
	}
	return k.name
}

// in tells whether the table has something by that key.
func (k Key) in(t *state.Table) bool {
	if k.address.Addr.IsValid() {
		for range t.ServicesAt(k.address.Network, k.address.Addr) {
			return true
		}
		return t.WorkloadAt(k.address.Network, k.address.Addr) != nil
	}
	namespace, host, _ := strings.Cut(k.name, "/")
	return t.Workload(k.name) != nil || t.Service(namespace, host) != nil || t.WorkloadByHost(namespace, host) != nil
}

// reach notes the names of what the table has by the key.
func (k Key) reach(t *state.Table, names map[string]bool) {
	if k.address.Addr.IsValid() {
		for svc := range t.ServicesAt(k.address.Network, k.address.Addr) {
			names[serviceName(svc)] = true
		}
		if w := t.WorkloadAt(k.address.Network, k.address.Addr); w != nil {
			names[w.UID] = true
		}
		return
	}
	names[k.name] = true
	namespace, host, _ := strings.Cut(k.name, "/")
	if w := t.WorkloadByHost(namespace, host); w != nil {
		names[w.UID] = true
	}
}

// Config is how a Cache reaches the control plane. All fields are required.
type Config struct {
	Ask    func(names ...string)
	Forget func(names ...string)
	Table  func() *state.Table
	Drop   func(names ...string) // takes resources out of the table
}

// Cache knows what was asked. Its methods may be called from any goroutine; a nil Cache needs nothing, since the whole mesh
// is known.
type Cache struct {
	cfg   Config
	began time.Time

	mu    sync.RWMutex // never held for long, nor while anything waits
	asked map[Key]*question
	names map[string]Key // of asked, as the control plane calls them
	kept  map[Key]int    // by how many
}

// question is a key that was asked. Guarded by the cache's lock.
type question struct {
	answered chan struct{} // closed when it is
	open     bool          // it isn't
	absent   time.Time     // until when the answer holds that there is nothing; zero if there was something
	used     atomic.Int64  // when somebody last needed it, as a time.Duration since the cache began; not guarded
}

// New makes a cache to which nothing is known.
func New(cfg Config) *Cache {
	return &Cache{cfg: cfg, began: time.Now(), asked: map[Key]*question{}, names: map[string]Key{}, kept: map[Key]int{}}
}

// knows tells whether a table has all that there is to a key.
func (c *Cache) knows(t *state.Table, k Key) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.knowsLocked(t, k)
}

func (c *Cache) knowsLocked(t *state.Table, k Key) bool {
	q := c.asked[k]
	if q == nil || q.open {
		return false
	}
	q.used.Store(int64(time.Since(c.began)))
	return k.in(t) || time.Now().Before(q.absent)
}

// Learn waits until a connection by from to an address can be decided. The error says what the control plane didn't answer.
func (c *Cache) Learn(ctx context.Context, from *state.Workload, to netip.Addr) error {
	for range rounds {
		missing := c.Missing(c.table(), from, to)
		if len(missing) == 0 {
			return nil
		}
		if err := c.Get(ctx, missing...); err != nil {
			return err
		}
	}
	return nil // the decision says what it lacks
}

func (c *Cache) table() *state.Table {
	if c == nil {
		return nil
	}
	return c.cfg.Table()
}

// Get asks for what isn't known of some keys and waits for the answers.
func (c *Cache) Get(ctx context.Context, keys ...Key) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	waiting, err := c.ask(keys)
	if err != nil {
		return err
	}
	for key, q := range waiting {
		select {
		case <-q.answered:
		case <-ctx.Done():
			return fmt.Errorf("the control plane has not said what %s is: %w", key, ctx.Err())
		}
	}
	return nil
}

// Want asks for what isn't known of some keys, and doesn't wait.
func (c *Cache) Want(keys ...Key) {
	if c != nil {
		_, _ = c.ask(keys) // who needs the answer asks again
	}
}

// ask asks what has to be and returns the questions that are open.
func (c *Cache) ask(keys []Key) (map[Key]*question, error) {
	table := c.cfg.Table()
	waiting := map[Key]*question{}
	var names []string
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if c.knowsLocked(table, key) {
			continue
		}
		q := c.asked[key]
		if q == nil && len(c.asked) >= maxKeys && !c.makeRoomLocked() {
			return nil, errors.New("too much was asked of the control plane at a time")
		}
		if q == nil || !q.open {
			q = &question{answered: make(chan struct{}), open: true}
			q.used.Store(int64(time.Since(c.began)))
			c.asked[key], c.names[key.String()] = q, key
			names = append(names, key.String())
		}
		waiting[key] = q
	}
	if len(names) > 0 {
		c.cfg.Ask(names...)
	}
	return waiting, nil
}

// Found is told of a resource that came, after the table has it: by its name and by what else it can be asked for.
func (c *Cache) Found(name string, aliases []string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answerLocked(name, time.Time{})
	for _, alias := range aliases {
		c.answerLocked(alias, time.Time{})
	}
}

// Absent is told of what the control plane says there is not, after the table has it no more.
func (c *Cache) Absent(names []string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		c.answerLocked(name, time.Now().Add(absentFor))
	}
}

// Settle is told when a push was taken: a control plane that sends no aliases has answered what the table has now.
func (c *Cache) Settle() {
	if c == nil {
		return
	}
	table := c.cfg.Table()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, q := range c.asked {
		if q.open && key.in(table) {
			c.answerLocked(key.String(), time.Time{})
		}
	}
}

// answerLocked notes an answer. What was removed that there had been is asked anew when somebody needs it.
func (c *Cache) answerLocked(name string, absent time.Time) {
	q := c.asked[c.names[name]]
	if q == nil {
		return
	}
	if q.open {
		q.open = false
		close(q.answered)
		q.absent = absent
	} else if absent.IsZero() {
		q.absent = absent
	}
}
