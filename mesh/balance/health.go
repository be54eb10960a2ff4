package balance

import (
	"math"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

const (
	// memory is in what time what an endpoint did loses most of its weight: longer than a pause of a garbage collector, shorter than a person waits.
	memory = 10 * time.Second
	// leastLatency is what all faster answers count as: below it requests under way tell more.
	leastLatency = time.Millisecond
	// leastHealth keeps an endpoint that only fails comparable with those that are very busy.
	leastHealth = 0.02
	// lesson is how much of an endpoint's health a single answer decides.
	lesson = 0.2
	// steps is how many are told apart between one slowness and twice that: less of a difference is chance.
	steps = 4
	// maxRecords is how many endpoints are remembered.
	maxRecords = 20_000
)

// Health is how endpoints have answered the requests to a service lately: the moving average of their latency, and of the share that went well.
// A workload may do well by one service and badly by another. It is one goroutine's. What isn't asked for long is forgotten little by little, so
// that an endpoint that did badly gets another chance.
type Health struct {
	now     func() time.Time
	records map[healthKey]*Record
}

type healthKey struct {
	namespace, hostname, uid string
	port                     uint16 // the workload's
}

// Record is what is known of one endpoint of a service.
type Record struct {
	latency float64 // in seconds
	failing float64 // share of answers that are failures
	at      time.Time
}

// NewHealth knows nothing yet; now is the time.
func NewHealth(now func() time.Time) *Health {
	return &Health{now: now, records: map[healthKey]*Record{}}
}

// Served takes in an answer, or that there was none: after what time, and whether it was well.
func (h *Health) Served(svc *state.Service, w *state.Workload, port uint16, took time.Duration, well bool) {
	now, key := h.now(), keyOf(svc, w, port)
	r := h.records[key]
	if r == nil {
		if len(h.records) >= maxRecords {
			h.tidy(now)
		}
		r = &Record{latency: took.Seconds(), at: now}
		h.records[key] = r
	}
	r.served(now, took, well)
}

// slowness is how many times longer an endpoint makes its clients wait than one of which all is well.
func (h *Health) slowness(svc *state.Service, c *candidate) float64 {
	if h == nil {
		return 1
	}
	r := h.records[keyOf(svc, c.workload, c.port)]
	if r == nil {
		return 1
	}
	return r.slowness(h.now())
}

func keyOf(svc *state.Service, w *state.Workload, port uint16) healthKey {
	return healthKey{svc.Namespace, svc.Hostname, w.UID, port}
}

// tidy forgets what says nothing any more, or else everything.
func (h *Health) tidy(now time.Time) {
	for key, r := range h.records {
		if now.Sub(r.at) > 10*memory {
			delete(h.records, key)
		}
	}
	if len(h.records) >= maxRecords {
		clear(h.records)
	}
}

func (r *Record) served(now time.Time, took time.Duration, well bool) {
	kept := r.fade(now)
	failing := r.failing * kept * (1 - lesson)
	if !well {
		failing += lesson
	}
	// Several answers at once weigh as much as time lets one weigh: each has its lesson at least.
	kept = min(kept, 1-lesson)
	r.latency = took.Seconds() + (r.latency-took.Seconds())*kept
	r.failing, r.at = failing, now
}

func (r *Record) slowness(now time.Time) float64 {
	kept := r.fade(now)
	latency := max(r.latency*kept, leastLatency.Seconds())
	times := latency / leastLatency.Seconds() / max(1-r.failing*kept, leastHealth)
	return math.Exp2(math.Floor(math.Log2(times)*steps) / steps)
}

// fade is how much of what was known still counts.
func (r *Record) fade(now time.Time) float64 {
	return math.Exp(-max(now.Sub(r.at), 0).Seconds() / memory.Seconds())
}
