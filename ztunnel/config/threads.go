package config

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/settings"
)

// threads says how many cores the data plane uses: a number, a share such as 50%, 0 for all. Unset, it follows the CPU
// limit if there is one, else it leaves three quarters of the node to the applications.
func threads(e *settings.Env) int {
	cores := e.CPUs("ZTUNNEL_RESOURCE_CPU_LIMIT", e.CPUs("ZTUNNEL_CPU_LIMIT", runtime.NumCPU()))
	if wish, set := e.Lookup("ZTUNNEL_WORKER_THREADS"); set {
		return wishedThreads(e, wish, cores)
	}
	request := e.CPUs("ZTUNNEL_RESOURCE_CPU_REQUEST", 0)
	if limit := e.CPUs("ZTUNNEL_RESOURCE_CPU_LIMIT", 0); limit > 0 {
		return max(limit, request)
	}
	return max((cores+3)/4, request, 2)
}

func wishedThreads(e *settings.Env, wish string, cores int) int {
	number, isShare := strings.CutSuffix(wish, "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 1024 || (isShare && (n == 0 || n > 100)) {
		e.Fail("ZTUNNEL_WORKER_THREADS", fmt.Sprintf("%q is neither a number, nor a share from 1%% to 100%%, nor 0 for all cores", wish))
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
