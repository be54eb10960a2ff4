package loop

import (
	"runtime"
	"testing"
	"time"
)

// A loop that has just been busy keeps its place among Go's running threads while it waits, but never when all have to stop.
func TestBusyLoopDoesNotHoldUpTheCollector(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // as in ztunnel, there are places for others
	const times = 50
	collect := func(before func()) time.Duration {
		start := time.Now()
		for range times {
			before()
			runtime.GC()
		}
		return time.Since(start)
	}
	alone := collect(func() {}) // slow too where the machine is busy
	l := newLoop(t)
	took := collect(func() {
		if err := l.Do(func() {}); err != nil {
			t.Fatal(err)
		}
	})
	if took > 2*alone+times*brief*time.Millisecond/2 {
		t.Errorf("%d collections took %s, and %s without the loop, as if each had waited for it", times, took, alone)
	}
}
