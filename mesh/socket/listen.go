package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is the packet mark of everything the mesh sends, so that capture leaves it alone.
const Mark = 0x539

// backlog is how many connections may wait to be accepted; the kernel lowers it to the namespace's somaxconn.
const backlog = 4096

// ListenConfig says how to listen.
type ListenConfig struct {
	Addr        netip.AddrPort      // [::] listens on both families, on IPv4 alone where IPv6 is off
	Mark        uint32              // 0: none
	Transparent bool                // accept for foreign addresses; best effort, since it needs CAP_NET_ADMIN
	ReusePort   bool                // share the port with other processes of the same user
	KeepAlive   net.KeepAliveConfig // of accepted connections; zero means 180 s, 180 s, 9 probes; a negative Idle turns it off
	UserTimeout time.Duration       // of accepted connections: how long sent data may stay unacknowledged; 0 leaves it to the kernel
	Given       Given               // verified listeners in the namespace; if one is on Addr it is taken out of there and used
}

// Listen opens a listener inside the namespace. Accepted connections have TCP_NODELAY.
func (n *Netns) Listen(cfg ListenConfig) (*net.TCPListener, error) {
	if fd, ok := cfg.Given.take(Port{Addr: cfg.Addr}); ok {
		return adoptListener(fd, cfg)
	}
	var listener *net.TCPListener
	err := n.Do(func() (err error) {
		listener, err = listen(cfg)
		return err
	})
	if cfg.Addr.Addr() == netip.IPv6Unspecified() && errors.Is(err, unix.EAFNOSUPPORT) {
		cfg.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), cfg.Addr.Port())
		return n.Listen(cfg)
	}
	if err != nil {
		if listener != nil { // made, but its thread could not come home
			listener.Close()
		}
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	return listener, nil
}

func adoptListener(fd int, cfg ListenConfig) (*net.TCPListener, error) {
	if err := adopt(fd, cfg); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take over the listener on %s: %w", cfg.Addr, err)
	}
	return listener.(*net.TCPListener), nil
}

func listen(cfg ListenConfig) (*net.TCPListener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: keepAlive(cfg.KeepAlive),
		Control: func(_, _ string, raw syscall.RawConn) error {
			return onSocket(raw, func(fd int) error { return prepareListener(fd, cfg) })
		},
	}
	if !lc.KeepAliveConfig.Enable {
		lc.KeepAlive = -1
	}
	// A multipath listener can't be put into a BPF socket map, and nobody here speaks MPTCP.
	lc.SetMultipathTCP(false)
	network := "tcp"
	if cfg.Addr.Addr().Is4() {
		network = "tcp4" // else 0.0.0.0 would take IPv6 connections as well
	}
	l, err := lc.Listen(context.Background(), network, cfg.Addr.String())
	if err != nil {
		return nil, err
	}
	listener := l.(*net.TCPListener)
	if err := setBacklog(listener); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

func prepareListener(fd int, cfg ListenConfig) error {
	if cfg.ReusePort {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("set SO_REUSEPORT: %w", err)
		}
	}
	if cfg.Transparent {
		_ = setTransparent(fd) // best effort: without it only foreign addresses are missing
	}
	if err := setUserTimeout(fd, cfg.UserTimeout); err != nil { // accepted connections inherit it
		return err
	}
	return setMark(fd, cfg.Mark)
}

// setBacklog repeats listen(2), which only changes the backlog: the standard library offers no choice of its own.
func setBacklog(listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(raw, func(fd int) error { return unix.Listen(fd, backlog) })
}

// keepAlive fills in the mesh's defaults.
func keepAlive(cfg net.KeepAliveConfig) net.KeepAliveConfig {
	switch {
	case cfg.Idle < 0:
		return net.KeepAliveConfig{}
	case cfg == net.KeepAliveConfig{}:
		return net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}
	}
	cfg.Enable = true
	return cfg
}

func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("set mark %#x (needs CAP_NET_ADMIN): %w", mark, err)
	}
	return nil
}

func setUserTimeout(fd int, timeout time.Duration) error {
	if timeout == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds())); err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// setTransparent allows foreign local addresses. The IPv4 option covers IPv6 sockets too: the kernel keeps one bit.
func setTransparent(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); err != nil {
		return fmt.Errorf("set IP_TRANSPARENT (needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}

func onSocket(raw syscall.RawConn, f func(fd int) error) error {
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}

// ListenFD is Listen for a descriptor that is non-blocking and in nobody's poller. What it accepts inherits TCP_NODELAY and
// keep-alive.
func (n *Netns) ListenFD(cfg ListenConfig) (fd int, err error) {
	if fd, ok := cfg.Given.take(Port{Addr: cfg.Addr}); ok {
		return fd, adopt(fd, cfg)
	}
	listener, err := n.Listen(cfg)
	if err != nil {
		return -1, err
	}
	defer listener.Close() // the socket lives on in its copy
	raw, err := listener.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = onSocket(raw, func(original int) error {
		if err := setConnection(original, keepAlive(cfg.KeepAlive)); err != nil {
			return err
		}
		fd, err = unix.FcntlInt(uintptr(original), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	return fd, nil // non-blocking as the original is: that belongs to the socket, not to the descriptor
}
