package daemon

import "runtime/debug"

const (
	// largePush is from how many bytes on a push makes a mesh large.
	largePush = 4 << 20
	// releaseAfter is how many bytes of pushes may come before the memory that it took to read them is returned.
	releaseAfter = 16 << 20
	// largeGCPercent is how much a large heap may grow before garbage is collected. Nearly all of it is the state of the
	// mesh, which stays: by Go's own rule (100) it would grow to twice of that.
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
		debug.SetGCPercent(largeGCPercent)
	}
}

// after is called when the push has been taken.
func (h *heap) after() {
	if h.pending >= releaseAfter {
		h.pending = 0
		debug.FreeOSMemory()
	}
}
