package socket

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are called for each connection, and x/sys asks for the protocol of every socket whose address it decodes.

// Accept takes one connection off a non-blocking listener's queue, non-blocking as well: EAGAIN tells that the queue is empty.
// The connection has the options that it inherits.
func Accept(listener int) (fd int, remote netip.AddrPort, err error) {
	var from unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(from))
	n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), addrPort(&from), nil
}

// Waiting tells how many connections wait in a listener's queue, or 0 where that can't be told. It costs an eighth of an Accept that
// finds none, for which the kernel makes a socket and a file first.
func Waiting(listener int) int {
	var info [28]byte // the beginning of struct tcp_info, to tcpi_unacked, which is the length of the queue here
	size := uint32(len(info))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(listener), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || size < uint32(len(info)) {
		return 0
	}
	return int(binary.NativeEndian.Uint32(info[24:]))
}

// Local returns the socket's own address.
func Local(fd int) (netip.AddrPort, error) {
	var own unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(own))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&own)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("getsockname: %w", errno)
	}
	return addrPort(&own), nil
}

// addrPort returns what the kernel has filled in, IPv4 as such; the zero AddrPort for an address of another family.
func addrPort(from *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&from.Port))[:]) // at the same place in both families
	switch from.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(from)).Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}
