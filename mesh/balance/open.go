package balance

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// openSlots is enough for thousands of endpoints at a time to be told apart.
const openSlots = 1 << 12

// After connecting to an endpoint has failed it is shunned for a while, then one connection tries it. Once an endpoint was reached it is as
// good as any, also if nothing is heard of that one for longer than connecting may take.
const (
	shunTime  = 5 * time.Second
	trialTime = 12 * time.Second
)

// Open counts the open connections to each workload and remembers failures to connect, for all goroutines and without locks.
//
// The count is a count-min sketch: a workload adds to two of the slots, and the lower one counts, so that another one's
// connections are taken for its own only when both slots collide. So it never grows, and needs no tidying when workloads
// come and go. The same goes for failures, where a collision shuns an innocent endpoint for seconds. The zero value is ready.
type Open struct {
	slots    [2][openSlots]atomic.Int32
	failures [openSlots]atomic.Int64 // see failure
}

// failure is until when an endpoint is shunned, in nanoseconds of Unix time without the last bit, which tells a trial. 0 is
// none.
type failure int64

func newFailure(after time.Duration, trial bool) failure {
	until := failure(time.Now().Add(after).UnixNano()) &^ 1
	if trial {
		until |= 1
	}
	return until
}

func (f failure) trial() bool { return f&1 != 0 }

// lasts tells whether the time isn't over. What lies far ahead was noted before the clock was turned back.
func (f failure) lasts() bool {
	left := time.Until(time.Unix(0, int64(f)))
	return left > 0 && left < 2*trialTime
}

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

// Failed notes that connecting to a port of the workload has failed. An endpoint that fails has few open connections, so it
// would be chosen again and again.
func (o *Open) Failed(w *state.Workload, port uint16) {
	o.failure(w, port).Store(int64(newFailure(shunTime, false)))
}

// Reached notes that somebody has connected to a port of the workload, or got an answer there.
func (o *Open) Reached(w *state.Workload, port uint16) {
	if noted := o.failure(w, port); noted.Load() != 0 {
		noted.Store(0)
	}
}

// shuns tells whether others are to be preferred.
func (o *Open) shuns(c *candidate) bool {
	f := failure(o.failure(c.workload, c.port).Load())
	return f != 0 && f.lasts()
}

// chosen begins a trial, or ends one that is over.
func (o *Open) chosen(c *candidate) {
	noted := o.failure(c.workload, c.port)
	switch f := failure(noted.Load()); {
	case f == 0 || f.lasts():
	case f.trial():
		noted.CompareAndSwap(int64(f), 0)
	default:
		noted.CompareAndSwap(int64(f), int64(newFailure(trialTime, true)))
	}
}

func (o *Open) failure(w *state.Workload, port uint16) *atomic.Int64 {
	hash := maphash.Comparable(openSeed, struct {
		uid  string
		port uint16
	}{w.UID, port})
	return &o.failures[hash%openSlots]
}
