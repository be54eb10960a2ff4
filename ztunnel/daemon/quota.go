package daemon

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

const (
	// podFiles and ofFiles are the part of ztunnel's open files that is for pods' connections and tunnels. The rest is for what
	// nobody asks a quota for: listeners, namespaces, ztunnel's own connections.
	podFiles, ofFiles = 3, 4
	// quotaComplaint is how often the log tells of a pod that wants more.
	quotaComplaint = 10 * time.Second
)

// podSockets is how many sockets all pods together may have open, by the limit of open files, which the runtime has raised to the
// hard limit.
func podSockets() int {
	limit := syscall.Rlimit{Cur: 1 << 10} // the least that processes have by tradition, if it can't be told
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Cur, 1<<30)) * podFiles / ofFiles
}

// newQuota bounds the pod's sockets. Every refusal counts; the log is told now and then.
func (p *pod) newQuota() *loop.Quota {
	var told atomic.Int64
	return p.sockets.Quota("pod "+p.info.Namespace+"/"+p.info.Name, func(err error) {
		p.refused.Inc()
		now, last := time.Now().UnixNano(), told.Load()
		if (last == 0 || time.Duration(now-last) >= quotaComplaint) && told.CompareAndSwap(last, now) {
			p.log.Warn("connections are refused", "err", err)
		}
	})
}
