package socket

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Port is what a listening socket listens on.
type Port struct {
	Addr netip.AddrPort
	UDP  bool
}

// String names the port as people do.
func (p Port) String() string {
	if p.UDP {
		return "udp " + p.Addr.String()
	}
	return "tcp " + p.Addr.String()
}

// Given are listening sockets on their way between processes, and the descriptors are its own. They are plain numbers since an
// os.File would wake Go's poller for every connection of a socket that another process accepts from. The nil Given is empty.
// It must not be used by several goroutines at once.
type Given map[Port]int

// Close closes all that wasn't taken.
func (g Given) Close() {
	for _, fd := range g {
		_ = unix.Close(fd)
	}
	clear(g)
}

// Copy duplicates the descriptors; the sockets are the same.
func (g Given) Copy() (Given, error) {
	copies := Given{}
	for port, fd := range g {
		if err := copies.add(port, fd); err != nil {
			copies.Close()
			return nil, err
		}
	}
	return copies, nil
}

// Share puts in a duplicate of a listening socket.
func (g Given) Share(fd int, udp bool) error {
	local, err := Local(fd)
	if err != nil {
		return fmt.Errorf("share a listener: %w", err)
	}
	return g.add(Port{Addr: local, UDP: udp}, fd)
}

func (g Given) add(port Port, fd int) error {
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate the listener on %s: %w", port, err)
	}
	g[port] = duplicate
	return nil
}

// Ports lists what is in it, in order.
func (g Given) Ports() []Port {
	return slices.SortedFunc(maps.Keys(g), func(a, b Port) int { return strings.Compare(a.String(), b.String()) })
}

// Key tells sockets apart: two Given with the same key are of the very same sockets.
func (g Given) Key() string {
	var b strings.Builder
	for _, port := range g.Ports() {
		var stat unix.Stat_t
		_ = unix.Fstat(g[port], &stat) // fails only on a descriptor that isn't ours
		fmt.Fprintf(&b, "%s=%d ", port, stat.Ino)
	}
	return b.String()
}

// Verify closes and takes out what isn't a listener on its port in the namespace, and tells what was wrong.
func (g Given) Verify(in NetnsID) error {
	var wrong []error
	for _, port := range g.Ports() {
		if err := verify(g[port], port, in); err != nil {
			wrong = append(wrong, fmt.Errorf("not a listener on %s: %w", port, err))
			_ = unix.Close(g[port])
			delete(g, port)
		}
	}
	return errors.Join(wrong...)
}

func verify(fd int, port Port, in NetnsID) error {
	wanted := map[int]int{unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_PROTOCOL: unix.IPPROTO_TCP, unix.SO_ACCEPTCONN: 1}
	if port.UDP {
		wanted = map[int]int{unix.SO_TYPE: unix.SOCK_DGRAM, unix.SO_PROTOCOL: unix.IPPROTO_UDP}
	}
	for option, want := range wanted {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		if err != nil {
			return fmt.Errorf("getsockopt: %w", err)
		}
		if got != want {
			return fmt.Errorf("is a socket of another kind (option %d is %d, not %d)", option, got, want)
		}
	}
	if local, err := Local(fd); err != nil || local != port.Addr {
		return fmt.Errorf("is bound to %s (%v)", local, err)
	}
	home, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return fmt.Errorf("find its network namespace (needs CAP_NET_ADMIN): %w", err)
	}
	defer unix.Close(home)
	if id, err := netnsID(home); err != nil || id != in {
		return fmt.Errorf("is in another network namespace (%v)", err)
	}
	return nil
}

// take returns the descriptor for a port, which is the caller's from now on.
func (g Given) take(port Port) (fd int, ok bool) {
	fd, ok = g[port]
	delete(g, port)
	return fd, ok
}

// adopt gives a listener that another process has opened the options of cfg. It closes fd when that fails.
func adopt(fd int, cfg ListenConfig) error {
	err := prepareListener(fd, cfg)
	if err == nil {
		err = setConnection(fd, keepAlive(cfg.KeepAlive))
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("take over the listener on %s: %w", cfg.Addr, err)
	}
	return nil
}
