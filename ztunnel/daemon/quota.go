package daemon

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

const (
	// podShare is the part of ztunnel's open files that one pod may have for connections and tunnels: some greedy ones leave enough
	// for the others.
	podShare = 4
	// quotaComplaint is how often the log tells of a pod that wants more.
	quotaComplaint = 10 * time.Second
)

// socketsPerPod is how many sockets a pod may have open, by the limit of open files, which the runtime has raised to the hard limit.
func socketsPerPod() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1 << 10 // the least that processes have by tradition
	}
	return int(min(limit.Cur, 1<<30) / podShare)
}

// newQuota bounds the pod's sockets. Every refusal counts; the log is told now and then.
func (p *pod) newQuota() *loop.Quota {
	var told atomic.Int64
	return loop.NewQuota("pod "+p.info.Namespace+"/"+p.info.Name, p.sockets, func(err error) {
		p.refused.Inc()
		now, last := time.Now().UnixNano(), told.Load()
		if (last == 0 || time.Duration(now-last) >= quotaComplaint) && told.CompareAndSwap(last, now) {
			p.log.Warn("connections are refused", "err", err)
		}
	})
}
