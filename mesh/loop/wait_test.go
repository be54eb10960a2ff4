package loop

import (
	"runtime"
	"testing"
	"time"
)

// A loop that has just been busy keeps its place among Go's running threads while it waits, but never when all have to stop.
func TestBusyLoopDoesNotHoldUpTheCollector(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // as in ztunnel, there are places for others
	l := newLoop(t)
	const times = 50
	start := time.Now()
	for range times {
		if err := l.Do(func() {}); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
	}
	if took := time.Since(start); took > times*brief*time.Millisecond/2 {
		t.Errorf("%d collections took %s, as if each had waited for the loop", times, took)
	}
}
