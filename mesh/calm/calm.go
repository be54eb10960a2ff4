// Package calm says how much memory garbage may take, and returns it to the system once a burst is over.
package calm

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// calmLooks is how many calm intervals end a burst.
	calmLooks = 2
	// calmBytes is how much may be allocated in a second of calm: scrapes of metrics and pings of peers stay below.
	calmBytes = 512 << 10
	// burstBytes is from how much on garbage is worth a collection, be it of a burst or of a long time.
	burstBytes = 16 << 20
)

// calm tells when a burst is over, so that memory which it took can be returned: the runtime does so only after a further
// collection, which without allocations doesn't come for minutes.
type calm struct {
	bytes    uint64 // that may be allocated between two looks in calm
	seen     uint64 // bytes that were ever allocated, at the last look
	returned uint64 // the same, when memory was last returned
	looks    int    // that found calm, in a row
}

// over tells that memory should be returned, after so many bytes were ever allocated.
func (c *calm) over(allocated uint64) bool {
	if c.looks++; allocated-c.seen >= c.bytes {
		c.looks = 0
	}
	c.seen = allocated
	if c.looks < calmLooks || allocated-c.returned < burstBytes {
		return false
	}
	c.returned = allocated
	return true
}

// ReturnMemory does so after each burst, until the context ends. Interval is how often it is looked whether one is over, a second
// at least.
func ReturnMemory(ctx context.Context, interval time.Duration) {
	c := calm{bytes: calmBytes * uint64(interval/time.Second)}
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if metrics.Read(sample); c.over(sample[0].Value.Uint64()) {
			runtime.GC() // what lies in pools is free only after a second collection
			debug.FreeOSMemory()
		}
	}
}
