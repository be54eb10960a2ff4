package loop

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rest is how a loop waits that isn't busy: as goroutines wait for their sockets, so that its thread does other goroutines' work
// meanwhile, above all what it has just handed over to them. A thread that waits in the kernel by itself keeps its place for a while,
// in which others have to be woken for that, and the runtime's monitor looks after it every 20 µs.
//
// It is a descriptor of its own of the loop's epoll instance, since a busy loop doesn't want Go's poller to be woken by each event.
type rest struct {
	file  *os.File
	conn  syscall.RawConn
	timed bool // file has a deadline
	found int
	look  func(uintptr) bool
}

func (p *poller) takeRest(patience time.Duration, timeout int) int {
	if p.rest == nil && p.beginRest() != nil {
		return count(unix.EpollWait(p.epoll, p.events[:], timeout)) // no descriptor is left
	}
	r := p.rest
	if patience >= 0 {
		_ = r.file.SetReadDeadline(time.Now().Add(patience))
	} else if r.timed {
		_ = r.file.SetReadDeadline(time.Time{})
	}
	r.timed = patience >= 0
	r.found = 0
	_ = r.conn.Read(r.look) // fails when time is up
	return r.found
}

func (p *poller) beginRest() error {
	fd, err := unix.FcntlInt(uintptr(p.epoll), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // which os.NewFile looks at
		_ = unix.Close(fd)
		return err
	}
	r := &rest{file: os.NewFile(uintptr(fd), "epoll")}
	if r.conn, err = r.file.SyscallConn(); err != nil {
		_ = r.file.Close()
		return err
	}
	r.look = func(uintptr) bool {
		r.found = count(p.epollBriefly(0))
		return r.found > 0
	}
	p.rest = r
	return nil
}

func (p *poller) endRest() {
	if p.rest != nil {
		_ = p.rest.file.Close()
		p.rest = nil
	}
}
