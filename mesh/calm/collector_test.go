package calm

import (
	"runtime/debug"
	"testing"
)

func TestGOGCComesFirst(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for gogc, want := range map[string]int{"": 50, "100": 100, "off": 100} {
		t.Setenv("GOGC", gogc)
		debug.SetGCPercent(100) // as the runtime would
		Headroom(50)
		if got := debug.SetGCPercent(100); got != want {
			t.Errorf("GOGC=%q: %d percent, want %d", gogc, got, want)
		}
	}
}
