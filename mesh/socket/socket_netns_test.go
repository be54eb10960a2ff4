package socket_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

var (
	a4, b4 = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")
	a6, b6 = netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")
)

func pair(t *testing.T) (a, b *netns.Namespace) {
	t.Helper()
	a, b = netns.New(t, "tulle-socket-test"), netns.New(t, "tulle-socket-test")
	prefixes := func(v4, v6 netip.Addr) []netip.Prefix {
		return []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)}
	}
	netns.Connect(a, b, "eth0", prefixes(a4, a6), prefixes(b4, b6))
	return a, b
}

func listen(t *testing.T, n *socket.Netns, cfg socket.ListenConfig) *net.TCPListener {
	t.Helper()
	l, err := n.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// join dials a listener in b from a and returns both ends.
func join(t *testing.T, from *socket.Netns, l *net.TCPListener, to netip.AddrPort, cfg socket.DialConfig) (client, server *net.TCPConn) {
	t.Helper()
	client, err := from.Dial(t.Context(), to, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := l.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	server, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func port(l *net.TCPListener) uint16 { return socket.Unmap(l.Addr()).Port() }

func option(t *testing.T, c syscall.Conn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) })
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestConnectionsRunInsideTheirNamespaces(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0"), Mark: socket.Mark, Transparent: true, ReusePort: true})
	for _, to := range []netip.Addr{b4, b6} {
		client, server := join(t, a.Netns, l, netip.AddrPortFrom(to, port(l)), socket.DialConfig{Mark: socket.Mark})
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		client.CloseWrite()
		if got, err := io.ReadAll(server); err != nil || string(got) != "hello" {
			t.Errorf("through %s: read %q, %v", to, got, err)
		}
		if got := socket.Unmap(server.LocalAddr()).Addr(); got != to {
			t.Errorf("server's address %s, want %s", got, to)
		}
		if original, err := socket.OriginalDst(server); err != nil || original != netip.AddrPortFrom(to, port(l)) {
			t.Errorf("original destination without NAT = %s, %v; want the local address", original, err)
		}
	}
	if _, err := (*socket.Netns)(nil).Dial(t.Context(), netip.AddrPortFrom(b4, port(l)), socket.DialConfig{Timeout: 200 * time.Millisecond}); err == nil {
		t.Error("the process's own namespace reaches the listener: it isn't inside")
	}
}

func TestWildcardListensWhereIPv6IsOff(t *testing.T) {
	a, b := pair(t)
	b.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	b.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0"), Transparent: true, ReusePort: true})
	join(t, a.Netns, l, netip.AddrPortFrom(b4, port(l)), socket.DialConfig{})
}

func TestIPv4WildcardTakesNoIPv6(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("0.0.0.0:0"), Transparent: true, ReusePort: true})
	join(t, a.Netns, l, netip.AddrPortFrom(b4, port(l)), socket.DialConfig{})
	if conn, err := a.Dial(t.Context(), netip.AddrPortFrom(b6, port(l)), socket.DialConfig{}); err == nil {
		conn.Close()
		t.Error("a connection by IPv6 is taken")
	}
}

func TestSocketsCarryMarksAndKeepAlive(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0"), Mark: socket.Mark, Transparent: true, ReusePort: true})
	client, server := join(t, a.Netns, l, netip.AddrPortFrom(b4, port(l)), socket.DialConfig{Mark: 0x53a})
	for _, want := range []struct {
		what        string
		conn        syscall.Conn
		level, name int
		value       int
	}{
		{"listener's mark", l, unix.SOL_SOCKET, unix.SO_MARK, socket.Mark},
		{"listener's SO_REUSEPORT", l, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"listener's IP_TRANSPARENT", l, unix.SOL_IP, unix.IP_TRANSPARENT, 1},
		{"listener's protocol", l, unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		{"accepted mark", server, unix.SOL_SOCKET, unix.SO_MARK, socket.Mark},
		{"dialled mark", client, unix.SOL_SOCKET, unix.SO_MARK, 0x53a},
		{"accepted keepalive", server, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"accepted idle", server, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 180},
		{"dialled keepalive", client, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"dialled idle", client, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 180},
		{"dialled interval", client, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 180},
		{"dialled probes", client, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		{"dialled nodelay", client, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"accepted nodelay", server, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"dialled protocol", client, unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
	} {
		if got := option(t, want.conn, want.level, want.name); got != want.value {
			t.Errorf("%s: %d, want %d", want.what, got, want.value)
		}
	}
	off := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("0.0.0.0:0"), KeepAlive: net.KeepAliveConfig{Idle: -1}})
	client, server = join(t, a.Netns, off, netip.AddrPortFrom(b4, port(off)), socket.DialConfig{KeepAlive: net.KeepAliveConfig{Idle: -1}})
	for _, conn := range []syscall.Conn{client, server} {
		if option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0 {
			t.Error("keepalive is on although switched off")
		}
	}
}

func TestDialAppearsFromAForeignSource(t *testing.T) {
	for _, family := range []struct {
		name        string
		to, foreign netip.Addr
	}{{"IPv4", b4, netip.MustParseAddr("192.0.2.7")}, {"IPv6", b6, netip.MustParseAddr("2001:db8::7")}} {
		t.Run(family.name, func(t *testing.T) {
			a, b := pair(t)
			// The answer must find its way back: the foreign address lives behind a, and is local there for what a marks.
			b.Route(netip.PrefixFrom(family.foreign, family.foreign.BitLen()), map[bool]netip.Addr{true: a4, false: a6}[family.foreign.Is4()])
			a.Local(netip.PrefixFrom(family.foreign, family.foreign.BitLen()))
			l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
			cfg := socket.DialConfig{Source: family.foreign}
			_, server := join(t, a.Netns, l, netip.AddrPortFrom(family.to, port(l)), cfg)
			if got := socket.Unmap(server.RemoteAddr()).Addr(); got != family.foreign {
				t.Errorf("server sees %s, want %s", got, family.foreign)
			}
			cfg.SourcePort = 1234
			_, server = join(t, a.Netns, l, netip.AddrPortFrom(family.to, port(l)), cfg)
			if got := socket.Unmap(server.RemoteAddr()); got != netip.AddrPortFrom(family.foreign, 1234) {
				t.Errorf("server sees %s, want port 1234 of %s", got, family.foreign)
			}
			if _, err := a.Dial(t.Context(), netip.AddrPortFrom(family.to, port(l)), cfg); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("the same 4-tuple again: %v, want EADDRNOTAVAIL", err)
			}
		})
	}
}

func TestOneSourceMakesManyConnections(t *testing.T) {
	a, b := pair(t)
	a.Sysctl("net.ipv4.ip_local_port_range", "40000 40009")
	first := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	second := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	for _, cfg := range []socket.DialConfig{{Source: a4}, {}} {
		var open []*net.TCPConn
		for _, l := range []*net.TCPListener{first, second} {
			for range 8 {
				client, _ := join(t, a.Netns, l, netip.AddrPortFrom(b4, port(l)), cfg)
				open = append(open, client)
			}
		}
		for _, client := range open {
			abort(t, client)
		}
	}
}

func TestUsedUpLocalPortsAreTold(t *testing.T) {
	a, b := pair(t)
	a.Sysctl("net.ipv4.ip_local_port_range", "40000 40000")
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	for _, cfg := range []socket.DialConfig{{}, {Source: a4}} {
		client, _ := join(t, a.Netns, l, netip.AddrPortFrom(b4, port(l)), cfg)
		if _, err := a.Dial(t.Context(), netip.AddrPortFrom(b4, port(l)), cfg); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("second dial from %s: %v, want EADDRNOTAVAIL", cfg.Source, err)
		}
		abort(t, client)
	}
}

// abort closes without leaving the port in TIME-WAIT.
func abort(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestDialGivesUp(t *testing.T) {
	a, _ := pair(t)
	a.Route(netip.MustParsePrefix("198.51.100.0/24"), b4)
	silent := netip.MustParseAddrPort("198.51.100.1:80") // b neither forwards nor answers
	_, err := a.Dial(t.Context(), silent, socket.DialConfig{Timeout: 50 * time.Millisecond})
	if !errors.Is(err, os.ErrDeadlineExceeded) && !isTimeout(err) {
		t.Errorf("after the timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Dial(ctx, silent, socket.DialConfig{}); !errors.Is(err, context.Canceled) && !isCanceled(err) {
		t.Errorf("after cancellation: %v", err)
	}
	if _, err := a.Dial(t.Context(), netip.AddrPortFrom(b4, 9), socket.DialConfig{}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("closed port: %v, want connection refused", err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func isCanceled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Err.Error() == "operation was canceled"
}

// Threads must come home whatever happens in between: else later sockets would be made in a pod.
func TestThreadsComeHome(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	home := here(t)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 30 {
				ns := []*socket.Netns{a.Netns, b.Netns, nil}[(worker+i)%3]
				to := netip.AddrPortFrom([]netip.Addr{b4, a4, b6}[i%3], port(l))
				if conn, err := ns.Dial(t.Context(), to, socket.DialConfig{Timeout: 10 * time.Millisecond}); err == nil {
					conn.Close()
				}
				ns.Do(func() error { return errors.New("a failure inside") })
				runtime.LockOSThread()
				if got := here(t); got != home {
					t.Errorf("a thread is left in %v", got)
				}
				runtime.UnlockOSThread()
			}
		})
	}
	group.Wait()
}

func here(t *testing.T) socket.NetnsID {
	t.Helper()
	n, err := socket.OpenNetns("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
		return socket.NetnsID{}
	}
	defer n.Close()
	return n.ID()
}

func TestNetnsIDs(t *testing.T) {
	a, b := pair(t)
	again, err := socket.NetnsFromFile(a.File())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != a.ID() || a.ID() == b.ID() || a.ID() == here(t) {
		t.Errorf("ids: a %v, a again %v, b %v, home %v", a.ID(), again.ID(), b.ID(), here(t))
	}
}

func TestOnlyNetworkNamespacesAreTaken(t *testing.T) {
	for _, path := range []string{"/proc/self/ns/mnt", "/dev/null", "/proc/self/ns/absent"} {
		if n, err := socket.OpenNetns(path); err == nil {
			n.Close()
			t.Errorf("OpenNetns(%s) succeeds", path)
		}
	}
}

func TestClosedNamespaceRefuses(t *testing.T) {
	a, _ := pair(t)
	n, err := socket.OpenNetns(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := n.Do(func() error { t.Error("ran"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do: %v", err)
	}
	if _, err := n.Dial(t.Context(), netip.AddrPortFrom(b4, 80), socket.DialConfig{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := n.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Listen: %v", err)
	}
}
