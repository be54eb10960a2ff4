package calm

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryMax says how much memory this program's control group may use, in bytes or "max".
const memoryMax = "/sys/fs/cgroup/memory.max"

// LimitMemory has garbage collected more often near the limit of a control group, rather than be killed there, and returns
// from where on, or 0. GOMEMLIMIT, which the runtime reads, comes first.
func LimitMemory() int64 { return limitMemory(memoryMax) }

func limitMemory(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return 0 // not in a control group of version 2, or already limited
	}
	group, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || group <= 0 {
		return 0 // "max"
	}
	limit := group / 10 * 9 // what isn't heap, and what the kernel counts for our sockets, needs some
	debug.SetMemoryLimit(limit)
	return limit
}
