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

// ListenUDP opens a UDP socket inside the namespace. Of cfg only Addr, Mark, Transparent, ReusePort and Given matter.
func (n *Netns) ListenUDP(cfg ListenConfig) (*net.UDPConn, error) {
	if fd, ok := cfg.Given.take(Port{Addr: cfg.Addr, UDP: true}); ok {
		return adoptUDP(fd, cfg)
	}
	var conn net.PacketConn
	err := n.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			return onSocket(raw, func(fd int) error { return prepareUDP(fd, cfg) })
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

// prepareUDP has a transparent socket tell whom a datagram was for, which ReadFrom understands.
func prepareUDP(fd int, cfg ListenConfig) error {
	if cfg.Transparent {
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1) // best effort as being transparent is: it needs a socket of that family
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
	}
	return prepareListener(fd, ListenConfig{Mark: cfg.Mark, Transparent: cfg.Transparent, ReusePort: cfg.ReusePort})
}

// controlLen has room for the address that ReadFrom reads.
var controlLen = unix.CmsgSpace(unix.SizeofSockaddrInet6)

// ReadFrom reads a datagram from a transparent socket: who has sent it, and to whom. The zero to means that nobody knows.
func ReadFrom(conn *net.UDPConn, buffer []byte) (n int, from, to netip.AddrPort, err error) {
	control := make([]byte, controlLen)
	n, controlN, _, from, err := conn.ReadMsgUDPAddrPort(buffer, control)
	if err != nil {
		return n, from, to, err
	}
	return n, from, destination(control[:controlN]), nil
}

// destination finds the address in what the kernel says beside a datagram.
func destination(control []byte) netip.AddrPort {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.AddrPort{}
	}
	for i := range messages {
		if to, err := unix.ParseOrigDstAddr(&messages[i]); err == nil {
			switch to := to.(type) {
			case *unix.SockaddrInet4:
				return netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port))
			case *unix.SockaddrInet6:
				return netip.AddrPortFrom(netip.AddrFrom16(to.Addr).Unmap(), uint16(to.Port))
			}
		}
	}
	return netip.AddrPort{}
}

func adoptUDP(fd int, cfg ListenConfig) (*net.UDPConn, error) {
	file := os.NewFile(uintptr(fd), "UDP socket")
	defer file.Close()
	err := prepareUDP(fd, cfg)
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
