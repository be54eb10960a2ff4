package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const maxEvents = 512 // per turn

// Events is what a socket is ready for.
type Events uint32

// The events of a watched socket. They tell of changes: who has been told reads or writes until the kernel says EAGAIN, or, if
// none but Readable and Writable came, until it did less than it was asked for.
const (
	Readable Events = unix.EPOLLIN
	Writable Events = unix.EPOLLOUT
	PeerEnd  Events = unix.EPOLLRDHUP // the peer sends no more
	Broken   Events = unix.EPOLLERR | unix.EPOLLHUP
	Failed   Events = unix.EPOLLERR // as Broken, by a reset or because the peer can't be reached any more
	Urgent   Events = unix.EPOLLPRI // out-of-band data, at which reads stop short
)

// Has tells that at least one of the events is among e.
func (e Events) Has(any Events) bool { return e&any != 0 }

// Handler hears what its socket is ready for, on the loop's goroutine.
type Handler interface {
	Ready(Events)
}

// Failure returns why a socket has Failed, once, or nil: also when the peer had ended properly before it broke the connection,
// so that what it sent is complete and still to be read.
func Failure(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if cause := unix.Errno(code); cause != 0 && cause != unix.EPIPE {
		return cause
	}
	return nil
}

// What is heard of a socket, and what else by Watch.
const (
	inputs = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
	all    = inputs | unix.EPOLLOUT
)

// Watch has h hear of fd from now on: of every change, at first of what it is ready for already. The loop doesn't own the
// descriptor.
func (l *Loop) Watch(fd int, h Handler) error { return l.poll.add(fd, h, all) }

// WatchInput is Watch without Writable, so that a socket with nothing to tell costs no event: most never have to wait for room.
func (l *Loop) WatchInput(fd int, h Handler) error { return l.poll.add(fd, h, inputs) }

// WatchOutput adds Writable to what the handler of WatchInput hears, at first if it is so already.
func (l *Loop) WatchOutput(fd int) error { return l.poll.modify(fd, all) }

// WatchListener has h hear of a listening socket that several loops watch: in each turn in which connections wait there, one
// of the loops that are free hears of it.
func (l *Loop) WatchListener(fd int, h Handler) error {
	return l.poll.add(fd, h, unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
}

// Forget ends Watch. Call it before the descriptor is closed.
func (l *Loop) Forget(fd int) { l.poll.remove(fd) }

// Release forgets the descriptor and closes it.
func (l *Loop) Release(fd int) {
	l.poll.drop(fd)
	_ = unix.Close(fd)
}

// Reset is Release with a reset for the peer, also of a descriptor that was never watched.
func (l *Loop) Reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // fails only on a dead connection
	l.Release(fd)
}

// poller is an epoll instance and who is watched by it.
type poller struct {
	epoll, eventfd int
	events         [maxEvents]unix.EpollEvent
	watched        []watch // by descriptor
	pace           int     // grows with waits that bring events
	rest           *rest   // nil while the loop is busy, and before its first wait
}

// watch is one watched descriptor. An event that was fetched before its descriptor was closed and used again carries an older
// generation.
type watch struct {
	handler    Handler
	generation int32
}

func (p *poller) open() error {
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if p.eventfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epoll)
		return fmt.Errorf("eventfd: %w", err)
	}
	if err := p.add(p.eventfd, nil, unix.EPOLLIN|unix.EPOLLET); err != nil {
		p.close()
		return err
	}
	return nil
}

func (p *poller) close() {
	p.endRest()
	_ = unix.Close(p.epoll)
	_ = unix.Close(p.eventfd)
}

func (p *poller) add(fd int, h Handler, events uint32) error {
	for fd >= len(p.watched) {
		p.watched = append(p.watched, make([]watch, max(256, len(p.watched)))...)
	}
	w := &p.watched[fd]
	w.handler = h
	w.generation++
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: w.generation}); err != nil {
		w.handler = nil
		return fmt.Errorf("watch a socket: epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) modify(fd int, events uint32) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: p.watched[fd].generation}); err != nil {
		return fmt.Errorf("watch a socket for room: epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) remove(fd int) {
	p.drop(fd)
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) // fails only on one that isn't watched
}

// drop forgets who watches, for a descriptor that is closed next: that takes it off the epoll instance, unless the process
// has another descriptor of the same socket.
func (p *poller) drop(fd int) {
	if fd < len(p.watched) {
		p.watched[fd].handler = nil
		p.watched[fd].generation++
	}
}

// wake ends a wait, from any goroutine.
func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.eventfd, one[:]) // fails only when it is at its highest, which wakes as well
}

// How a loop waits depends on its pace: it grows by one with each wait that brings events, and halves with each that doesn't. A loop of
// busyPace is busy. Below that are those that make a tunnel now and then, which takes some ten waits at each end.
const (
	maxPace  = 64
	busyPace = 16
)

// brief is how many milliseconds at most a busy loop waits without giving its place among Go's running threads to others: that and
// coming back costs more than most turns do. The runtime takes the place when it needs all to stop, and after some 10 ms anyway, by a
// signal that ends the wait. This is a bound in case it sends none; short it must not be, since a timer that is the machine's
// next has to be told to its clock, which costs as much as a turn on a virtual machine.
const brief = 100

// wait returns the number of events, 0 also before the time is up. A negative patience waits for ever.
func (p *poller) wait(patience time.Duration) int {
	timeout := -1
	if patience >= 0 {
		timeout = int((patience + time.Millisecond - 1) / time.Millisecond)
	}
	n := 0
	switch {
	case timeout == 0:
		n = count(p.epollBriefly(0))
		p.pace = min(p.pace+min(n, 1), maxPace)
		return n
	case p.pace >= busyPace:
		p.endRest()
		n = count(p.epollBriefly(briefly(timeout)))
	default:
		n = p.takeRest(patience, timeout)
	}
	if n > 0 {
		p.pace = min(p.pace+1, maxPace)
	} else {
		p.pace /= 2
	}
	return n
}

// briefly shortens a timeout.
func briefly(timeout int) int {
	if timeout < 0 {
		return brief
	}
	return min(timeout, brief)
}

// count makes nothing of a wait that a signal has ended.
func count(n int, err error) int {
	if err == nil {
		return n
	}
	if !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("event loop: epoll_wait: %v", err)) // the instance is ours and open: a bug
	}
	return 0
}

func (p *poller) dispatch(n int) {
	for i := range p.events[:n] {
		ev := &p.events[i]
		w := p.watched[ev.Fd]
		if w.handler != nil && w.generation == ev.Pad {
			w.handler.Ready(Events(ev.Events))
		}
	}
}
