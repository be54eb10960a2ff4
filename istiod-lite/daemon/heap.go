package daemon

import (
	runtimemetrics "runtime/metrics"
	"time"
)

// calmInterval is how often it is looked whether a burst is over, such as one of all proxies that come back.
const calmInterval = time.Second

// How much the heap may grow before garbage is collected, in percent of what lives. While everything is read for the first
// time, nearly all is garbage and time counts; after that nearly all is the state of the mesh, which stays, and what it is collected
// for is what streams need for a moment. A large mesh's has room for that in less.
const (
	gcPercentStart = 200
	gcPercentReady = 100
	gcPercentLarge = 50
	largeHeap      = 64 << 20
)

// headroom is how much the heap may grow once everything was read.
func headroom() int {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if runtimemetrics.Read(sample); sample[0].Value.Uint64() > largeHeap {
		return gcPercentLarge
	}
	return gcPercentReady
}
