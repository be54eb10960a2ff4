package balance

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// openSlots is enough for thousands of endpoints at a time to be told apart.
const openSlots = 1 << 12

// Open counts the open connections to each workload, from any goroutine and without locks. It is a count-min sketch: a
// workload adds to two of the slots, and the lower one counts, so that another one's connections are taken for its own only
// when both slots collide. So it never grows, and needs no tidying when workloads come and go. The zero value is ready.
type Open struct{ slots [2][openSlots]atomic.Int32 }

var openSeed = maphash.MakeSeed()

// Add counts n more connections to the workload; n is negative when they end.
func (o *Open) Add(w *state.Workload, n int) {
	a, b := o.of(w)
	a.Add(int32(n))
	b.Add(int32(n))
}

// Count returns about how many connections to the workload are open, never too few.
func (o *Open) Count(w *state.Workload) int {
	a, b := o.of(w)
	return int(min(a.Load(), b.Load()))
}

func (o *Open) of(w *state.Workload) (a, b *atomic.Int32) {
	hash := maphash.String(openSeed, w.UID)
	return &o.slots[0][hash%openSlots], &o.slots[1][hash>>32%openSlots]
}
