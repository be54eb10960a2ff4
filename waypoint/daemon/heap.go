package daemon

import (
	"context"
	"runtime/metrics"
	"time"

	"github.com/tulle-mesh/tulle/mesh/calm"
)

// How much the heap may grow before garbage is collected: by headroom bytes, which are enough for requests, or by half of what lives in it if that
// is more, as with many tunnels and rules. In percent of what lives, as the runtime wants it, that is between least and most.
const (
	headroom    = 16 << 20
	gcLeast     = 50
	gcMost      = 400
	gcLookEvery = time.Second
)

// gcPercent is how much a heap may grow of which so many bytes live.
func gcPercent(live uint64) int {
	return int(min(max(100*headroom/max(live, 1), gcLeast), gcMost))
}

// keepHeadroom follows what lives, until ctx ends.
func keepHeadroom(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(gcLookEvery)
	defer tick.Stop()
	for now := gcMost; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(sample)
		if percent := gcPercent(sample[0].Value.Uint64()); percent != now { // the runtime stops for a moment to take it
			now = percent
			calm.Headroom(now)
		}
	}
}
