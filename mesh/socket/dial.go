package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const defaultDialTimeout = 10 * time.Second

// DialConfig says how to dial. The zero value dials like anybody else, with the mesh's timeouts.
type DialConfig struct {
	Mark       uint32              // 0: none
	Source     netip.Addr          // the address to appear from, also a foreign one; the zero Addr leaves it to the kernel
	SourcePort uint16              // with Source: the port to appear from; 0 leaves it to the kernel
	Timeout    time.Duration       // 0 means 10 s
	KeepAlive  net.KeepAliveConfig // zero means 180 s, 180 s, 9 probes; a negative Idle turns it off
	// UserTimeout is how long sent data may stay unacknowledged; 0 leaves it to the kernel.
	UserTimeout time.Duration
}

// Dial connects from inside the namespace. Only the making of the socket happens there: waiting for the answer holds no
// thread. The connection has TCP_NODELAY.
func (n *Netns) Dial(ctx context.Context, to netip.AddrPort, cfg DialConfig) (*net.TCPConn, error) {
	var conn *net.TCPConn
	var err error
	if n == nil {
		conn, err = dial(ctx, to, cfg, func() error { return nil })
	} else {
		conn, err = n.dialInside(ctx, to, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return conn, nil
}

// errSecondSocket is for the dialer's second try, whose socket would be at home. The dialer only makes one if the kernel
// found no local port, or took the very one that was dialled.
var errSecondSocket = fmt.Errorf("no local port is left for this destination; close connections or widen net.ipv4.ip_local_port_range: %w",
	unix.EADDRNOTAVAIL)

// dialInside uses that a dialer calls its control function right after it made the socket, on the same goroutine: there
// the thread goes home, before anything waits.
func (n *Netns) dialInside(ctx context.Context, to netip.AddrPort, cfg DialConfig) (*net.TCPConn, error) {
	type result struct {
		conn *net.TCPConn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		v, err := n.enter()
		if err != nil {
			results <- result{nil, err}
			return
		}
		inside := true
		conn, err := dial(ctx, to, cfg, func() error {
			if !inside {
				return errSecondSocket
			}
			inside = false
			return v.leave()
		})
		if inside { // it failed before it made a socket
			err = errors.Join(err, v.leave())
		}
		results <- result{conn, err}
	}()
	r := <-results
	return r.conn, r.err
}

func dial(ctx context.Context, to netip.AddrPort, cfg DialConfig, made func() error) (*net.TCPConn, error) {
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	dialer := net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: keepAlive(cfg.KeepAlive),
		Control: func(_, _ string, raw syscall.RawConn) error {
			if err := made(); err != nil {
				return err
			}
			return onSocket(raw, func(fd int) error { return prepareDial(fd, cfg) })
		},
	}
	if !keepAlive(cfg.KeepAlive).Enable {
		dialer.KeepAlive = -1
	}
	dialer.SetMultipathTCP(false)
	var from netip.AddrPort
	if cfg.Source.IsValid() {
		from = netip.AddrPortFrom(cfg.Source, cfg.SourcePort)
	}
	return dialer.DialTCP(ctx, "tcp", from, to)
}

func prepareDial(fd int, cfg DialConfig) error {
	if err := setMark(fd, cfg.Mark); err != nil {
		return err
	}
	if err := setUserTimeout(fd, cfg.UserTimeout); err != nil {
		return err
	}
	if cfg.Source.IsValid() {
		if err := appearFrom(fd, cfg.SourcePort); err != nil || cfg.SourcePort != 0 {
			return err
		}
	}
	// The dialer binds the socket even to no address at all. Choose the port when connecting, by the whole 4-tuple: else
	// 28,000 connections of one source use all ports up.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("set IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	return nil
}

// appearFrom allows the socket a foreign source.
func appearFrom(fd int, port uint16) error {
	if err := setTransparent(fd); err != nil {
		return err
	}
	if port == 0 {
		return nil
	}
	// One port serves several destinations.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	return nil
}
