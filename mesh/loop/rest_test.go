package loop

import (
	"testing"
	"time"
)

// expectWait waits as a loop does and checks how many events that brings, and whether the loop rests.
func expectWait(t *testing.T, p *poller, patience time.Duration, events int, rests bool) {
	t.Helper()
	if n := p.wait(patience); n != events || (p.rest != nil) != rests {
		t.Fatalf("at a pace of %d, a wait brought %d events and rested: %v; want %d and %v", p.pace, n, p.rest != nil, events, rests)
	}
}

// What is asked of a loop now and then, such as a tunnel, finds it at rest each time; only steady traffic makes it keep its place among
// Go's running threads, until nothing comes for a few waits.
func TestOnlyBusyLoopsKeepTheirPlace(t *testing.T) {
	p := &newManual(t).poll
	for range 3 {
		for range busyPace {
			p.wake()
			expectWait(t, p, -1, 1, true)
		}
		for range 3 * maxPace {
			p.wake()
			expectWait(t, p, -1, 1, false)
		}
		for range 3 {
			expectWait(t, p, time.Millisecond, 0, false)
		}
		for p.pace > 0 {
			expectWait(t, p, time.Millisecond, 0, true)
		}
	}
}

func TestRestEndsInTime(t *testing.T) {
	p := &newManual(t).poll
	began := time.Now()
	expectWait(t, p, 20*time.Millisecond, 0, true)
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("the loop rested for %s of 20ms", took)
	}
	go func() {
		time.Sleep(30 * time.Millisecond) // longer than the wait before: its deadline is over
		p.wake()
	}()
	expectWait(t, p, -1, 1, true)
	p.wake()
	expectWait(t, p, 0, 1, true)
}
