package config

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
)

// threads says how many cores the data plane uses: a number, a share such as 50%, 0 for all. Unset, it follows the CPU
// limit if there is one, else it leaves three quarters of the node to the applications.
func threads(e *env) int {
	cores := cpus(e, "ZTUNNEL_RESOURCE_CPU_LIMIT", cpus(e, "ZTUNNEL_CPU_LIMIT", runtime.NumCPU()))
	if wish, set := e.lookup("ZTUNNEL_WORKER_THREADS"); set {
		return wishedThreads(e, wish, cores)
	}
	request := cpus(e, "ZTUNNEL_RESOURCE_CPU_REQUEST", 0)
	if limit := cpus(e, "ZTUNNEL_RESOURCE_CPU_LIMIT", 0); limit > 0 {
		return max(limit, request)
	}
	return max((cores+3)/4, request, 2)
}

func wishedThreads(e *env, wish string, cores int) int {
	number, isShare := strings.CutSuffix(wish, "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 1024 || (isShare && (n == 0 || n > 100)) {
		e.fail("ZTUNNEL_WORKER_THREADS", fmt.Sprintf("%q is neither a number, nor a share from 1%% to 100%%, nor 0 for all cores", wish))
		return cores
	}
	switch {
	case isShare:
		return (cores*n + 99) / 100
	case n == 0:
		return cores
	}
	return n
}

// cpus reads a Kubernetes quantity such as 2, 0.5 or 1500m, rounded up.
func cpus(e *env, name string, fallback int) int {
	value, set := e.lookup(name)
	if !set {
		return fallback
	}
	number, milli := strings.CutSuffix(value, "m")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n > 1e6 || math.IsNaN(n) {
		e.fail(name, fmt.Sprintf("%q is no amount of CPUs such as 2 or 500m", value))
		return fallback
	}
	if milli {
		n /= 1000
	}
	if n == 0 {
		return fallback
	}
	return int(math.Ceil(n))
}
