package certs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// Run fetches and renews certificates until ctx ends, which it answers with nil. It returns when no request is in flight
// any more. After that Get still returns certificates that are valid, but waits for none.
func (m *Manager) Run(ctx context.Context) error {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer m.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.mu.Lock()
		next, ok := m.dispatchLocked(ctx, &fetches)
		m.mu.Unlock()
		timer.Stop()
		if ok {
			timer.Reset(min(next, lookAgain))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// stop has all who wait look again.
func (m *Manager) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	for _, e := range m.entries {
		e.tellLocked()
	}
}

// lookAgain is how soon it is noticed that the wall clock was set, or that the machine has slept, which timers don't tell.
const lookAgain = 10 * time.Second

// leastJump is from how much on the wall clock was set, rather than slewed.
const leastJump = time.Second

// noticeLocked heeds both clocks: entries wait by the monotonic one, so that nothing is put off for as long as the wall clock was
// turned back, and certificates expire by the wall clock, so that when it was set ahead they wait for as much less.
func (m *Manager) noticeLocked(now time.Time) {
	wall := m.wall()
	ahead := wall.Sub(m.lastWall) - now.Sub(m.lastLook)
	m.lastWall, m.lastLook = wall, now
	if ahead.Abs() < leastJump {
		return
	}
	m.log.Warn("the clock was set", "ahead", ahead)
	for _, e := range m.waiting.list {
		e.due = e.due.Add(-max(ahead, 0)) // all alike: their order stays
	}
}

// dispatchLocked begins as many requests as may run, and returns in how long the next entry is due, if any waits.
func (m *Manager) dispatchLocked(ctx context.Context, fetches *sync.WaitGroup) (time.Duration, bool) {
	now := time.Now()
	m.noticeLocked(now)
	for e := m.waiting.first(); e != nil && !e.due.After(now); e = m.waiting.first() {
		m.waiting.remove(e)
		m.sequence++
		e.sequence = m.sequence
		m.ready.push(e)
	}
	for m.running < maxFetches && m.ready.first() != nil {
		e := m.ready.first()
		m.ready.remove(e)
		m.running++
		var fetching context.Context
		fetching, e.cancel = context.WithTimeout(ctx, fetchTimeout)
		fetches.Go(func() { m.fetch(fetching, e) })
	}
	if e := m.waiting.first(); e != nil {
		return e.due.Sub(now), true
	}
	return 0, false
}

// fetch makes one try and takes its result over.
func (m *Manager) fetch(ctx context.Context, e *entry) {
	credential, err := m.ask(ctx, e)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.noticeLocked(now)                     // what waits from now on has nothing to do with a jump before
	ending := ctx.Err() == context.Canceled // looked at before it is cancelled below
	defer m.signal()                        // there is room for another request
	m.running--
	e.cancel()
	e.cancel = nil
	if forgotten := m.entries[e.id] != e; forgotten || ending {
		return
	}
	e.priority = background
	defer func() { e.again = false }()
	if err == nil {
		e.credential, e.err, e.delay = credential, nil, 0
		e.due = now.Add(renewalDelay(credential, m.wall()))
		if e.again {
			e.due = now.Add(min(rand.N(renewWithin), e.due.Sub(now)))
		}
		m.log.Debug("certificate fetched", "identity", e.id.String(), "not_after", credential.NotAfter())
	} else {
		e.err = err
		delay := e.retryDelay()
		e.due = now.Add(delay)
		valid, _ := e.current(m.wall())
		if valid == nil {
			e.priority = warmUp
		}
		m.log.Warn("certificate not fetched", "identity", e.id.String(), "err", err, "retry_in", delay,
			"old_one_valid", valid != nil)
	}
	m.waiting.push(e)
	e.tellLocked()
}

// wallClock returns the time by which certificates expire, without the monotonic one.
func wallClock() time.Time { return time.Now().Round(0) }

// tellLocked wakes those who wait for a change.
func (e *entry) tellLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// ask makes a key, has it certified and checks the answer, which must work and be for the identity.
func (m *Manager) ask(ctx context.Context, e *entry) (*mtls.Credential, error) {
	key, csrPEM, err := request(e.id)
	if err != nil {
		return nil, err
	}
	chainPEM, err := m.ca.Sign(ctx, e.id, csrPEM, m.ttl)
	if err != nil {
		return nil, err
	}
	credential, err := mtls.NewCredential(key, chainPEM)
	if err != nil {
		return nil, fmt.Errorf("answer of the certificate service: %w", err)
	}
	if credential.Identity != e.id {
		return nil, fmt.Errorf("certificate service answered for %s", credential.Identity)
	}
	if !m.wall().Before(credential.NotAfter()) {
		return nil, fmt.Errorf("certificate service answered with a certificate that expired at %s; compare the clocks",
			credential.NotAfter().UTC().Format(time.RFC3339))
	}
	return credential, nil
}
