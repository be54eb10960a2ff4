package calm

import (
	"os"
	"runtime/debug"
)

// Headroom sets how much the heap may grow before garbage is collected, in percent of what lives in it, unless GOGC, which the runtime
// reads, says how much.
func Headroom(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
