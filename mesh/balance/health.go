package balance

import (
	"math"
	"math/rand/v2"
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
	// surprise is how many times longer than was known an answer may have taken; the rest of it is chance, or the question.
	surprise = 4
	// failing is how many times less healthy one endpoint has to be than another until that isn't chance.
	failing = 1.1
	// maxRecords is how many endpoints are remembered.
	maxRecords = 20_000
)

// Health is how endpoints have answered the requests to a service lately: the moving average of their latency, and of the share that went well.
// A workload may do well by one service and badly by another. It is one goroutine's. What isn't asked for long is forgotten little by little, so
// that an endpoint that did badly gets another chance.
type Health struct {
	now     func() time.Time
	records map[healthKey]*record
}

type healthKey struct {
	namespace, hostname, uid string
	port                     uint16 // the workload's
}

// record is what is known of one endpoint of a service.
type record struct {
	latency float64 // in seconds
	failing float64 // share of answers that are failures
	at      time.Time
}

// NewHealth knows nothing yet; now is the time.
func NewHealth(now func() time.Time) *Health {
	return &Health{now: now, records: map[healthKey]*record{}}
}

// Served takes in an answer, or that there was none: after what time, and whether it was well.
func (h *Health) Served(svc *state.Service, w *state.Workload, port uint16, took time.Duration, well bool) {
	now, key := h.now(), keyOf(svc, w, port)
	r := h.records[key]
	if r == nil {
		if len(h.records) >= maxRecords {
			h.tidy(now)
		}
		r = &record{latency: leastLatency.Seconds(), at: now} // as of one that isn't known
		h.records[key] = r
	}
	r.served(now, took, well)
}

// compare tells how long two endpoints make their clients wait, each in relation to the other; 1 and 1 if nothing is known. The slower of
// them seems as fast as the other as often as that is faster: else it wouldn't be asked while there is little to do, and nobody would learn
// that it's well again.
func (h *Health) compare(svc *state.Service, a, b *candidate) (slownessA, slownessB float64) {
	if h == nil {
		return 1, 1
	}
	now := h.now()
	latencyA, healthA := h.records[keyOf(svc, a.workload, a.port)].known(now)
	latencyB, healthB := h.records[keyOf(svc, b.workload, b.port)].known(now)
	if rand.Float64()*max(latencyA, latencyB) < min(latencyA, latencyB) {
		latencyA, latencyB = 1, 1
	}
	if max(healthA, healthB) < failing*min(healthA, healthB) {
		healthA, healthB = 1, 1
	}
	return latencyA / healthA, latencyB / healthB
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

func (r *record) served(now time.Time, took time.Duration, well bool) {
	kept := r.fade(now)
	failed := r.failing * kept * (1 - lesson)
	if !well {
		failed += lesson
	}
	// Several answers at once weigh as much as time lets one weigh: each has its lesson at least.
	kept = min(kept, 1-lesson)
	latency := min(took.Seconds(), surprise*max(r.latency, leastLatency.Seconds()))
	r.latency = latency + (r.latency-latency)*kept
	r.failing, r.at = failed, now
}

// known is what still counts of what was known: the latency in seconds, and the share of answers that are well.
func (r *record) known(now time.Time) (latency, health float64) {
	if r == nil {
		return leastLatency.Seconds(), 1
	}
	kept := r.fade(now)
	return max(r.latency*kept, leastLatency.Seconds()), max(1-r.failing*kept, leastHealth)
}

// fade is how much of what was known still counts.
func (r *record) fade(now time.Time) float64 {
	return math.Exp(-max(now.Sub(r.at), 0).Seconds() / memory.Seconds())
}
