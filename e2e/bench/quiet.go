package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// others tells how much of the machine was used by whoever has nothing to do with the benchmark.
type others struct {
	at    time.Time
	spent time.Duration
}

// lookAtOthers adds up what all processes have used, with those of their children that have ended, but not ours; and what
// the hypervisor took away. The kernel's own threads work for us. What a process has used that ends without a waiting
// parent is lost.
func lookAtOthers(ours []int) others {
	o := others{at: time.Now(), spent: stolen()}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || slices.Contains(ours, pid) {
			continue
		}
		fields, err := statFields(strconv.Itoa(pid))
		if err != nil || fields[1] == kernelParent {
			continue
		}
		o.spent += ticks(fields, 11, 12, 13, 14)
	}
	return o
}

// kernelParent is the parent of all kernel threads.
const kernelParent = "2"

// stolen is the time that this virtual machine wanted to run and could not.
func stolen() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0
	}
	return ticks(fields, 8)
}

// share is what others used between two looks, as a share of the machine.
func (o others) share(before others) float64 {
	return max(0, float64(o.spent-before.spent)/float64(o.at.Sub(before.at))/cores)
}
