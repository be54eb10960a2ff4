package capture

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

const (
	// maxDeciding bounds, for each listener, the connections that were accepted but aren't relayed yet; more wait in the
	// backlog. It is not shared: whoever floods a pod from outside must not stop what the pod sends.
	maxDeciding = 4096
	// acceptsPerTurn is how many connections one worker takes at a time, so that others get their part.
	acceptsPerTurn = 32
	// quietTime without an arrival tells a draining listener that it has accepted everything which the kernel held ready.
	quietTime = 10 * time.Millisecond
	// pauseTime is how long accepting rests when descriptors or memory run out: what is open may end.
	pauseTime = 50 * time.Millisecond
	// complaintTime is how often the log tells of such a rest.
	complaintTime = 10 * time.Second
)

// acceptor is a listener's part on one worker.
type acceptor struct {
	owner    *Listeners
	listener *listener
	worker   *worker.Worker
	decide   func(Conn) // nil for tunnels
	most     int        // connections that may be deciding

	watching   bool
	deciding   int
	closed     bool
	complained time.Time // when the log was last told that connections wait
	draining   bool
	quiet      loop.Timer    // ends the drain
	pause      loop.Timer    // ends a pause
	rested     chan struct{} // closed when the drain has ended
	idle       chan struct{} // closed when nothing more is accepted, and all is decided
}

func newAcceptor(owner *Listeners, l *listener, w *worker.Worker, decide func(Conn)) *acceptor {
	a := &acceptor{owner: owner, listener: l, worker: w, decide: decide, most: maxDeciding / len(owner.cfg.Workers), rested: make(chan struct{}), idle: make(chan struct{})}
	a.quiet.Run = a.rest
	a.pause.Run = a.resume
	return a
}

// Ready implements loop.Handler for the listening socket. At least one connection waited a moment ago.
func (a *acceptor) Ready(loop.Events) {
	waiting := 1
	for range acceptsPerTurn {
		if !a.watching {
			return
		}
		if waiting == 0 {
			if waiting = socket.Waiting(a.listener.fd); waiting == 0 {
				return
			}
		}
		waiting--
		fd, remote, err := socket.Accept(a.listener.fd)
		switch err {
		case nil:
			a.take(fd, remote)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR: // the client was faster
		default:
			a.exhausted(err)
			return
		}
	}
}

// exhausted rests from accepting, and says now and then why.
func (a *acceptor) exhausted(err error) {
	a.stop()
	a.worker.After(&a.pause, pauseTime)
	if now := a.worker.Now(); now.Sub(a.complained) >= complaintTime {
		a.complained = now
		a.owner.cfg.Log.Error("connections have to wait", "port", a.listener.port, "err", err, "remedy", remedyFor(err))
	}
}

// remedyFor tells an operator what to do when connections can't be accepted.
func remedyFor(err error) string {
	switch err {
	case unix.EMFILE:
		return "raise ztunnel's hard limit of open files, such as LimitNOFILE of its service or of the container runtime"
	case unix.ENFILE:
		return "raise the node's limit of open files: sysctl fs.file-max"
	}
	return "give the node more memory"
}

// take hands a connection on.
func (a *acceptor) take(fd int, remote netip.AddrPort) {
	if a.draining {
		a.worker.After(&a.quiet, quietTime)
	}
	local, err := socket.Local(fd)
	if err != nil || !remote.IsValid() {
		a.owner.cfg.Log.Warn("connection without addresses", "port", a.listener.port, "err", err)
		_ = unix.Close(fd)
		return
	}
	if a.decide == nil {
		a.owner.cfg.HBONE(a.worker, fd, local, remote)
		return
	}
	if a.deciding++; a.deciding >= a.most {
		a.stop()
	}
	a.decide(Conn{
		Worker: a.worker, FD: fd, accepted: a,
		Client: Client{remote}, Original: OriginalDst{socket.OriginalDstOf(fd, local)},
	})
}

// decided makes room for another connection.
func (a *acceptor) decided() {
	if a.deciding--; a.deciding == a.most-1 {
		a.resume()
	}
	a.tellIdle()
}

func (a *acceptor) tellIdle() {
	if a.closed && a.deciding == 0 {
		close(a.idle)
	}
}

// resume accepts, unless something is against it.
func (a *acceptor) resume() {
	if a.watching || a.closed || a.deciding >= a.most {
		return
	}
	if err := a.worker.WatchListener(a.listener.fd, a); err != nil {
		a.owner.cfg.Log.Error("accept", "port", a.listener.port, "err", err)
		a.worker.After(&a.pause, pauseTime)
		return
	}
	a.watching = true
}

func (a *acceptor) stop() {
	if a.watching {
		a.watching = false
		a.worker.Forget(a.listener.fd)
	}
}

// drain goes on accepting until nothing has arrived for a while.
func (a *acceptor) drain() {
	a.draining = true
	a.worker.After(&a.quiet, quietTime)
}

func (a *acceptor) rest() {
	a.close()
	close(a.rested)
}

func (a *acceptor) close() {
	if !a.closed {
		a.closed = true
		a.stop()
		a.worker.Stop(&a.pause)
		a.tellIdle()
	}
}
