package socket

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Visitor makes sockets inside namespaces for a goroutine that is its own for good, such as an event loop's, which it locks to its
// thread meanwhile. It stays where it was last until GoHome, so that many sockets of one namespace cost one visit.
type Visitor struct {
	home *os.File
	at   *Netns // nil at home
}

// NewVisitor makes the visitor of the calling goroutine, whose thread must be at home.
func NewVisitor() (*Visitor, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the process's own network namespace: %w", err)
	}
	return &Visitor{home: home}, nil
}

// Close releases what the visitor holds. The thread must be at home.
func (v *Visitor) Close() { _ = v.home.Close() }

// Away tells that the thread isn't at home.
func (v *Visitor) Away() bool { return v.at != nil }

// GoHome moves the thread back and unlocks the goroutine. It must be called before that waits: a namespace lives as long as a thread is in
// it. After an error the thread stays locked.
func (v *Visitor) GoHome() error {
	if v.at == nil {
		return nil
	}
	if err := setns(v.home); err != nil {
		return fmt.Errorf("leave network namespace: %w", err)
	}
	v.at = nil
	runtime.UnlockOSThread()
	return nil
}

func (v *Visitor) enter(n *Netns) error {
	if n == nil {
		return v.GoHome()
	}
	if v.at == n {
		return nil
	}
	if v.at == nil {
		runtime.LockOSThread()
	}
	if err := setns(n.file); err != nil {
		if v.at == nil {
			runtime.UnlockOSThread() // the thread never left
		}
		return fmt.Errorf("enter network namespace: %w", err)
	}
	v.at = n
	return nil
}

// Dial makes a non-blocking socket inside the namespace and begins to connect it. The connection, which has TCP_NODELAY, is made
// or has failed when the socket gets writable. n is nil for the process's own namespace; cfg.Timeout is the caller's.
func (v *Visitor) Dial(n *Netns, to netip.AddrPort, cfg DialConfig) (fd int, err error) {
	if err := v.enter(n); err != nil {
		return -1, fmt.Errorf("dial %s: %w", to, err)
	}
	fd, err = unix.Socket(family(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("dial %s: socket: %w", to, err)
	}
	if err = begin(fd, to, cfg); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("dial %s: %w", to, err)
	}
	return fd, nil
}

func begin(fd int, to netip.AddrPort, cfg DialConfig) error {
	if err := prepareDial(fd, cfg); err != nil {
		return err
	}
	if err := setConnection(fd, keepAlive(cfg.KeepAlive)); err != nil {
		return err
	}
	if cfg.Source.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(cfg.Source, cfg.SourcePort))); err != nil {
			return fmt.Errorf("bind to %s: %w", cfg.Source, err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// setConnection sets what connections have that don't inherit it from a listener.
func setConnection(fd int, cfg net.KeepAliveConfig) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if !cfg.Enable {
		return nil
	}
	for _, option := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(cfg.Idle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(cfg.Interval.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, cfg.Count},
	} {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return fmt.Errorf("set keep-alive: %w", err)
		}
	}
	return nil
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// OriginalDstOf is OriginalDst for a descriptor whose local address is known.
func OriginalDstOf(fd int, local netip.AddrPort) netip.AddrPort {
	if original, ok := beforeNAT(fd, local.Addr().Is4()); ok {
		return original
	}
	return local
}

// Take takes a connection out of Go's hands: the descriptor is non-blocking, in nobody's poller, and the caller's. The
// connection must not be used any more, not even after an error.
func Take(conn *net.TCPConn) (fd int, err error) {
	defer conn.Close() // the socket lives on in its copy
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = onSocket(raw, func(original int) error {
		fd, err = unix.FcntlInt(uintptr(original), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("take over a connection: %w", err)
	}
	return fd, nil
}
