package loop

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the hot path. They don't block, or only for a moment, so the scheduler isn't told: that saves a good part of
// their cost.

// epollBriefly waits for up to timeout milliseconds, or until a signal comes.
func (p *poller) epollBriefly(timeout int) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), maxEvents, uintptr(timeout), 0, 0)
	return result(n, errno)
}

// readyFor tells which of the events, or Broken, a descriptor is ready for now. One that isn't open is ready for nothing.
func readyFor(fd int, events Events) Events {
	asked := unix.PollFd{Fd: int32(fd), Events: int16(events)}
	var now unix.Timespec
	n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&asked)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if n != 1 { // none, or a signal came
		return 0
	}
	return Events(asked.Revents) & (events | Broken)
}

// Read reads from a non-blocking socket. p must not be empty.
func Read(fd int, p []byte) (int, error) { return receive(fd, &p[0], uint64(len(p))) }

// Write writes to a non-blocking socket. p must not be empty.
func Write(fd int, p []byte) (int, error) { return send(fd, &p[0], uint64(len(p))) }

// MaxVectors is how many pieces ReadVector and WriteVector take.
const MaxVectors = 1024

// ReadVector reads from a non-blocking socket into several pieces in turn.
func ReadVector(fd int, v []unix.Iovec) (int, error) {
	if len(v) == 1 {
		return receive(fd, v[0].Base, v[0].Len)
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return result(n, errno)
}

// WriteVector writes several pieces to a non-blocking socket.
func WriteVector(fd int, v []unix.Iovec) (int, error) {
	if len(v) == 1 {
		return send(fd, v[0].Base, v[0].Len)
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return result(n, errno)
}

// receive and send are for sockets only, and so cost less than read and write, which have to find out what a descriptor is of, and than
// those with vectors even more.

func receive(fd int, p *byte, size uint64) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(size), 0, 0, 0)
	return result(n, errno)
}

func send(fd int, p *byte, size uint64) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(size), unix.MSG_NOSIGNAL, 0, 0)
	return result(n, errno)
}

// result keeps error values off the heap: an Errno in an error allocates unless it is one of a few.
func result(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN:
		return 0, unix.EAGAIN
	}
	return 0, errno
}
