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

// Read reads from a non-blocking descriptor. p must not be empty.
func Read(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, errno)
}

// Write writes to a non-blocking socket. p must not be empty.
func Write(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, errno)
}

// MaxVectors is how many pieces ReadVector and WriteVector take.
const MaxVectors = 1024

// ReadVector reads into several pieces in turn.
func ReadVector(fd int, v []unix.Iovec) (int, error) {
	n, _, errno := syscall.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return result(n, errno)
}

// WriteVector writes several pieces.
func WriteVector(fd int, v []unix.Iovec) (int, error) {
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
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
