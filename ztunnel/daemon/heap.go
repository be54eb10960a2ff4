package daemon

import (
	"runtime/debug"
	"time"

	"github.com/tulle-mesh/tulle/mesh/calm"
)

// gcPercent is how much the heap may grow before garbage is collected. What lives in a ztunnel at rest is little, so that by Go's
// own rule (100, but 4 MB at least) the first collection would fall into the first connection.
const gcPercent = 200

// calmInterval is how often it is looked whether a burst is over; spare tunnels are given up within two.
const calmInterval = 4 * time.Second

// maxStalled bounds what all workers' tunnels may hold, beyond their windows, for connections whose applications don't read.
const maxStalled = 256 << 20

// stalledBytes is the part of one of so many workers: an eighth of the limit of memory, if there is one.
func stalledBytes(workers int) int64 {
	return min(maxStalled, debug.SetMemoryLimit(-1)/8) / int64(workers)
}

const (
	// largePush is from how many bytes on a push makes a mesh large.
	largePush = 4 << 20
	// releaseAfter is how many bytes of pushes may come before the memory that it took to read them is returned.
	releaseAfter = 16 << 20
	// largeGCPercent is gcPercent for a large heap. Nearly all of it is the state of the mesh, which stays: it would grow to
	// three times of that.
	largeGCPercent = 50
)

// heap keeps memory close to what the state of the mesh needs. One goroutine takes the pushes.
type heap struct {
	pending int // bytes of pushes since memory was returned
	large   bool
}

// before is called before a push of so many bytes is read.
func (h *heap) before(size int) {
	if h.pending += size; h.pending >= largePush && !h.large {
		h.large = true
		calm.Headroom(largeGCPercent)
	}
}

// after is called when the push has been taken.
func (h *heap) after() {
	if h.pending >= releaseAfter {
		h.pending = 0
		debug.FreeOSMemory()
	}
}
