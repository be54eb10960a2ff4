// Package certs keeps one live certificate for every identity of the node: it asks for them, renews them in time and
// forgets them.
package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

const (
	// maxFetches is how many requests to the certificate authority run at a time.
	maxFetches = 8
	// renewWithin is how long Renew spreads its requests over: all nodes hear of new roots at about the same time.
	renewWithin = 10 * time.Second
	// fetchTimeout is how long the authority has to answer one of them.
	fetchTimeout = 10 * time.Second
)

// CA signs certificate requests.
type CA interface {
	// Sign returns PEM texts: the leaf, then any intermediates, the root bundle last. The certificate is for id and the
	// key of csrPEM; ttl is how long it should be valid.
	Sign(ctx context.Context, id identity.Workload, csrPEM string, ttl time.Duration) (chainPEM []string, err error)
}

// Manager keeps a certificate for each identity that was asked for by Set or Get. It renews it between 45 and 50 % of its
// life; if that fails it tries again and again, while the old one serves until it expires. When the clock is set ahead, what expires
// by that is renewed within seconds; when it is turned back, nothing is put off. Waiting connections come
// before new identities, and those before renewals. Run must be running.
type Manager struct {
	ca  CA
	log *slog.Logger
	ttl time.Duration
	// wall is the clock by which certificates expire. It may be set while we run.
	wall func() time.Time

	// wake tells Run that something has become ready, or is ready earlier.
	wake chan struct{}

	mu      sync.Mutex
	entries map[identity.Workload]*entry
	// Each entry is in one queue, or running. waiting is ordered by due, ready by priority and then age.
	waiting, ready queue
	running        int
	sequence       uint64 // age of entries in ready
	stopped        bool   // Run has ended

	lastLook, lastWall time.Time // both clocks, when they were last compared
}

// NewManager makes a manager that asks ca for certificates that are valid for ttl. Logs go to scope certs.
func NewManager(ca CA, log *slog.Logger, ttl time.Duration) *Manager {
	return &Manager{
		ca: ca, log: log.With("scope", "certs"), ttl: ttl, wall: wallClock, lastLook: time.Now(), lastWall: wallClock(),
		wake:    make(chan struct{}, 1),
		entries: map[identity.Workload]*entry{},
		waiting: queue{before: func(a, b *entry) bool { return a.due.Before(b.due) }},
		ready: queue{before: func(a, b *entry) bool {
			return a.priority < b.priority || a.priority == b.priority && a.sequence < b.sequence
		}},
	}
}

var errStopped = errors.New("certificates are no longer kept: shutting down")

// Get returns the identity's certificate, which is valid now. It waits for the first one, or until ctx ends. If there is
// none, or it has expired, and the last try to get one failed, it returns that try's error at once.
func (m *Manager) Get(ctx context.Context, id identity.Workload) (*mtls.Credential, error) {
	if id.IsZero() {
		return nil, errors.New("no identity to get a certificate for")
	}
	m.mu.Lock()
	e := m.entryLocked(id, realTime)
	e.getters++
	defer m.release(e)
	for {
		credential, err := e.current(m.wall())
		if err == nil && credential == nil && m.stopped {
			err = errStopped
		}
		if credential != nil || err != nil {
			m.mu.Unlock()
			return credential, wrap(id, err)
		}
		m.hastenLocked(e)
		changed := e.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, wrap(id, ctx.Err())
		}
		m.mu.Lock()
	}
}

func wrap(id identity.Workload, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("certificate of %s: %w", id, err)
}

// release ends a Get: if the identity was forgotten meanwhile, it goes now.
func (m *Manager) release(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.getters--; e.getters == 0 && e.unwanted {
		m.forgetLocked(e)
	}
}

// Set says which identities the node has now. Certificates of new ones are fetched ahead of their use; the others'
// are forgotten and their requests cancelled, but an identity that a Get waits for stays until that ends.
func (m *Manager) Set(ids []identity.Workload) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[identity.Workload]bool, len(ids))
	for _, id := range ids {
		if id.IsZero() || wanted[id] {
			continue
		}
		wanted[id] = true
		m.entryLocked(id, warmUp).unwanted = false
	}
	for id, e := range m.entries {
		switch {
		case wanted[id]:
		case e.getters > 0:
			e.unwanted = true
		default:
			m.forgetLocked(e)
		}
	}
}

// Renew has every certificate fetched anew within 10 seconds, as a renewal like any other: the roots that come with them have
// changed.
func (m *Manager) Renew() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		switch e.queue {
		case &m.waiting:
			if due := time.Now().Add(rand.N(renewWithin)); due.Before(e.due) {
				e.due = due
				m.waiting.fix(e)
			}
		case nil:
			e.again = true
		}
	}
	m.signal()
}

// Status tells about one identity.
type Status struct {
	Identity identity.Workload
	// State is "Available", "Initializing" or "Unavailable: " and why.
	State string
	// Credential is the last certificate, even if expired, or nil.
	Credential *mtls.Credential
}

// Dump returns the status of all identities, ordered by identity.
func (m *Manager) Dump() []Status {
	now := m.wall()
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Status, 0, len(m.entries))
	for id, e := range m.entries {
		status := Status{Identity: id, State: "Initializing", Credential: e.credential}
		switch credential, err := e.current(now); {
		case credential != nil:
			status.State = "Available"
		case err != nil:
			status.State = "Unavailable: " + err.Error()
		}
		list = append(list, status)
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Identity.String(), b.Identity.String()) })
	return list
}

// entryLocked finds or makes the entry. A new one is fetched with the priority.
func (m *Manager) entryLocked(id identity.Workload, p priority) *entry {
	e := m.entries[id]
	if e == nil {
		e = &entry{id: id, priority: p, changed: make(chan struct{}), place: -1}
		m.entries[id] = e
		m.readyLocked(e)
	}
	return e
}

// hastenLocked puts an entry without a valid certificate before those nobody waits for. It may even have been put off:
// its certificate expired early by our clock, which has jumped, or lived shorter than the least delay.
func (m *Manager) hastenLocked(e *entry) {
	e.priority = realTime
	switch e.queue {
	case &m.ready:
		m.ready.fix(e)
	case &m.waiting:
		m.waiting.remove(e)
		m.readyLocked(e)
	}
}

func (m *Manager) readyLocked(e *entry) {
	m.sequence++
	e.sequence = m.sequence
	m.ready.push(e)
	m.signal()
}

// forgetLocked cancels the request in flight and tells nobody: there is no Get of it.
func (m *Manager) forgetLocked(e *entry) {
	if m.entries[e.id] != e {
		return
	}
	delete(m.entries, e.id)
	if e.queue != nil {
		e.queue.remove(e)
	}
	if e.cancel != nil {
		e.cancel()
	}
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
