package load

import (
	"math/bits"
	"sync"
	"time"
)

// buckets is 32 for each power of two, so that a quantile is right to 3 %.
const buckets = 59*32 + 64

// Histogram counts durations.
type Histogram struct {
	mu     sync.Mutex // guards counts
	counts [buckets]uint32
}

func (h *Histogram) Add(d time.Duration) {
	h.mu.Lock()
	h.counts[bucket(d)]++
	h.mu.Unlock()
}

// moveTo adds the counts to sum, which nobody else uses, and begins anew.
func (h *Histogram) MoveTo(sum *Histogram) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, n := range h.counts {
		sum.counts[i] += n
	}
	h.counts = [buckets]uint32{}
}

// quantile is the duration below which a share q of all is; 0 if there is none.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total uint64
	for _, n := range h.counts {
		total += uint64(n)
	}
	rest := q * float64(total)
	for i, n := range h.counts {
		if rest -= float64(n); n > 0 && rest <= 0 {
			return middle(i)
		}
	}
	return 0
}

// bucket is exact below 64 ns; above, the five bits after the first one count.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	e := max(0, bits.Len64(v)-6)
	return e*32 + int(v>>e)
}

func middle(bucket int) time.Duration {
	e := max(0, bucket/32-1)
	low := uint64(bucket-e*32) << e
	return time.Duration(low + 1<<e/2)
}
