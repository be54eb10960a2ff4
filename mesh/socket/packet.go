package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenUDP opens a UDP socket inside the namespace. Of cfg only Addr, Mark, ReusePort and Given matter.
func (n *Netns) ListenUDP(cfg ListenConfig) (*net.UDPConn, error) {
	if fd, ok := cfg.Given.take(Port{Addr: cfg.Addr, UDP: true}); ok {
		return adoptUDP(fd, cfg)
	}
	var conn net.PacketConn
	err := n.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			return onSocket(raw, func(fd int) error { return prepareListener(fd, ListenConfig{Mark: cfg.Mark, ReusePort: cfg.ReusePort}) })
		}}
		var err error
		conn, err = lc.ListenPacket(context.Background(), "udp", cfg.Addr.String())
		return err
	})
	if err != nil {
		if conn != nil { // made, but its thread could not come home
			conn.Close()
		}
		return nil, fmt.Errorf("listen on udp %s: %w", cfg.Addr, err)
	}
	return conn.(*net.UDPConn), nil
}

func adoptUDP(fd int, cfg ListenConfig) (*net.UDPConn, error) {
	file := os.NewFile(uintptr(fd), "UDP socket")
	defer file.Close()
	err := prepareListener(fd, ListenConfig{Mark: cfg.Mark, ReusePort: cfg.ReusePort})
	var conn net.PacketConn
	if err == nil {
		conn, err = net.FilePacketConn(file)
	}
	if err != nil {
		return nil, fmt.Errorf("take over the socket on udp %s: %w", cfg.Addr, err)
	}
	return conn.(*net.UDPConn), nil
}

// DialUDP opens a UDP socket inside the namespace that hears only of one peer. The kernel chooses a random port for it.
func (n *Netns) DialUDP(to netip.AddrPort, mark uint32) (*net.UDPConn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return onSocket(raw, func(fd int) error { return setMark(fd, mark) })
		}}
		var err error
		conn, err = dialer.Dial("udp", to.String())
		return err
	})
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, fmt.Errorf("dial udp %s: %w", to, err)
	}
	return conn.(*net.UDPConn), nil
}

// Retire makes a listening UDP socket hear of nobody new, so that another one with its port takes over at once. What has
// arrived can still be read and answered.
func Retire(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	// The kernel gives a port's datagrams to a connected socket only if its peer sent them. Nobody sends from port 9.
	nobody := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9})
	if conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6() {
		nobody = &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16(), Port: 9}
	}
	return onSocket(raw, func(fd int) error { return unix.Connect(fd, nobody) })
}

// LoopbackIPv6 tells whether IPv6 works on the namespace's loopback interface.
func (n *Netns) LoopbackIPv6() bool {
	var value []byte
	err := n.Do(func() error {
		var err error
		value, err = os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6") // of the reading thread's namespace
		return err
	})
	return err == nil && strings.TrimSpace(string(value)) != "1"
}
