package certs

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// priority orders requests; the smaller comes first.
type priority int

const (
	realTime   priority = iota // a connection waits
	warmUp                     // a pod has appeared
	background                 // renewal
)

// entry is one identity. Manager.mu guards it, id excepted.
type entry struct {
	id identity.Workload

	credential *mtls.Credential // the last one, maybe expired; nil before the first
	err        error            // of the last try; nil before the first and after a success
	changed    chan struct{}    // closed and replaced after every try

	priority priority
	due      time.Time          // when the next try is to begin, by the monotonic clock; in the queue waiting
	delay    time.Duration      // of the last retry, without jitter; 0 after a success
	cancel   context.CancelFunc // of the try in flight
	again    bool               // the answer in flight may be of the time before Renew
	getters  int                // calls of Get
	unwanted bool               // Set doesn't name it, it goes when getters is 0

	queue    *queue // that it is in, or nil
	place    int    // in the queue
	sequence uint64 // age in the queue ready
}

// current returns the certificate if it is valid, else the last try's error, if any.
func (e *entry) current(now time.Time) (*mtls.Credential, error) {
	if e.credential != nil && now.Before(e.credential.NotAfter()) {
		return e.credential, nil
	}
	return nil, e.err
}

const (
	firstDelayMin = 500 * time.Millisecond
	firstDelayMax = time.Second
	maxDelay      = 150 * time.Second
	jitter        = 0.2
)

// retryDelay returns how long to wait after another failed try: first 0.5 to 1 s, then twice as long each time, give or
// take a fifth, at most 150 s.
func (e *entry) retryDelay() time.Duration {
	if e.delay == 0 {
		e.delay = firstDelayMin + rand.N(firstDelayMax-firstDelayMin+1)
		return e.delay
	}
	e.delay = min(2*e.delay, maxDelay)
	factor := 1 - jitter + 2*jitter*rand.Float64()
	return min(time.Duration(float64(e.delay)*factor), maxDelay)
}

// renewalDelay returns how long to wait before a valid certificate is renewed: 45 to 50 % of the life that it still has,
// but no less than the first retry's delay, so that a certificate authority near its own end isn't hammered. A clock that is slow
// gives no certificate more life than it ever had.
func renewalDelay(c *mtls.Credential, now time.Time) time.Duration {
	half := min(c.NotAfter().Sub(now), c.NotAfter().Sub(c.NotBefore())) / 2
	return max(half-rand.N(half/10+1), firstDelayMin)
}

// queue is a heap of entries.
type queue struct {
	list   []*entry
	before func(a, b *entry) bool
}

func (q *queue) push(e *entry) {
	e.queue = q
	heap.Push(q, e)
}

func (q *queue) remove(e *entry) {
	heap.Remove(q, e.place)
	e.queue = nil
}

func (q *queue) fix(e *entry) { heap.Fix(q, e.place) }

// first returns the entry whose turn is next, or nil.
func (q *queue) first() *entry {
	if len(q.list) == 0 {
		return nil
	}
	return q.list[0]
}

// Len implements heap.Interface.
func (q *queue) Len() int { return len(q.list) }

// Less implements heap.Interface.
func (q *queue) Less(i, j int) bool { return q.before(q.list[i], q.list[j]) }

// Swap implements heap.Interface.
func (q *queue) Swap(i, j int) {
	q.list[i], q.list[j] = q.list[j], q.list[i]
	q.list[i].place, q.list[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(e any) {
	last := e.(*entry)
	last.place = len(q.list)
	q.list = append(q.list, last)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	end := len(q.list) - 1
	last := q.list[end]
	q.list[end] = nil
	q.list = q.list[:end]
	last.place = -1
	return last
}
