package socket_test

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// visit runs f with a visitor of its own, and checks that both leave nothing.
func visit(t *testing.T, f func(*socket.Visitor)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err := socket.NewVisitor()
		if err != nil {
			t.Error(err)
			return
		}
		home := here(t)
		f(v)
		if err := v.GoHome(); err != nil {
			t.Error(err)
		}
		if got := here(t); got != home || v.Away() {
			t.Errorf("the visitor is at %v, away %v; home is %v", got, v.Away(), home)
		}
		v.Close()
	}()
	<-done
}

// connected waits for the outcome of a connect that was begun.
func connected(t *testing.T, fd int) error {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000); n != 1 {
		t.Errorf("the connect has no outcome: %v", err)
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

func TestVisitorDialsInsideNamespaces(t *testing.T) {
	a, b := pair(t)
	inA := listen(t, a.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	inB := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	atHome := listen(t, nil, socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	visit(t, func(v *socket.Visitor) {
		for _, test := range []struct {
			from *netns.Namespace
			to   netip.AddrPort
			want netip.Addr // the socket's own address
		}{
			{a, netip.AddrPortFrom(b4, port(inB)), a4},
			{a, netip.AddrPortFrom(b6, port(inB)), a6},
			{b, netip.AddrPortFrom(a4, port(inA)), b4},
			{nil, socket.Unmap(atHome.Addr()), netip.MustParseAddr("127.0.0.1")},
			{b, netip.AddrPortFrom(a6, port(inA)), b6},
		} {
			var from *socket.Netns
			if test.from != nil {
				from = test.from.Netns
			}
			fd, err := v.Dial(from, test.to, socket.DialConfig{Mark: 0x53a})
			if err != nil {
				t.Error(err)
				continue
			}
			if v.Away() != (from != nil) {
				t.Errorf("dialled from %v, the visitor is away: %v", from.ID(), v.Away())
			}
			if err := connected(t, fd); err != nil {
				t.Errorf("dial %s: %v", test.to, err)
			}
			if local, err := socket.Local(fd); err != nil || local.Addr() != test.want {
				t.Errorf("the socket is at %s, %v, want %s", local, err, test.want)
			}
			checkOptions(t, fd)
			_ = unix.Close(fd)
		}
	})
}

func checkOptions(t *testing.T, fd int) {
	t.Helper()
	for _, want := range []struct {
		what               string
		level, name, value int
	}{
		{"mark", unix.SOL_SOCKET, unix.SO_MARK, 0x53a},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"idle", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 180},
		{"interval", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 180},
		{"probes", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		{"protocol", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
	} {
		if got, err := unix.GetsockoptInt(fd, want.level, want.name); err != nil || got != want.value {
			t.Errorf("%s is %d, %v, want %d", want.what, got, err, want.value)
		}
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: the socket blocks", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: children inherit it", flags, err)
	}
}

// While it is away, a visitor's thread is nobody else's, and other goroutines stay at home.
func TestVisitorKeepsItsThread(t *testing.T) {
	a, _ := pair(t)
	home := here(t)
	stop := make(chan struct{})
	var others sync.WaitGroup
	defer others.Wait()
	defer close(stop)
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if at := here(t); at != home {
					t.Errorf("another goroutine is at %v, home is %v", at, home)
					return
				}
				runtime.Gosched()
			}
		})
	}
	visit(t, func(v *socket.Visitor) {
		for range 20 {
			fd, err := v.Dial(a.Netns, netip.AddrPortFrom(b4, 1), socket.DialConfig{})
			if err != nil {
				t.Error(err)
				return
			}
			_ = unix.Close(fd)
			for range 50 {
				if at := here(t); at != a.Netns.ID() {
					t.Errorf("the visitor is at %v instead of %v", at, a.Netns.ID())
				}
				runtime.Gosched()
			}
			if err := v.GoHome(); err != nil {
				t.Error(err)
			}
			runtime.Gosched()
		}
	})
}

func TestVisitorAppearsFromAForeignSource(t *testing.T) {
	for _, family := range []struct {
		name              string
		to, foreign, back netip.Addr
	}{
		{"IPv4", b4, netip.MustParseAddr("192.0.2.7"), a4},
		{"IPv6", b6, netip.MustParseAddr("2001:db8::7"), a6},
	} {
		t.Run(family.name, func(t *testing.T) {
			a, b := pair(t)
			b.Route(netip.PrefixFrom(family.foreign, family.foreign.BitLen()), family.back)
			a.Local(netip.PrefixFrom(family.foreign, family.foreign.BitLen()))
			l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
			to := netip.AddrPortFrom(family.to, port(l))
			visit(t, func(v *socket.Visitor) {
				for _, sourcePort := range []uint16{0, 1234} {
					fd, err := v.Dial(a.Netns, to, socket.DialConfig{Source: family.foreign, SourcePort: sourcePort})
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = unix.Close(fd) }()
					if err := connected(t, fd); err != nil {
						t.Error(err)
						return
					}
					_ = l.SetDeadline(time.Now().Add(5 * time.Second))
					server, err := l.AcceptTCP()
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = server.Close() }()
					seen := socket.Unmap(server.RemoteAddr())
					if seen.Addr() != family.foreign || (sourcePort != 0 && seen.Port() != sourcePort) {
						t.Errorf("the server sees %s, want port %d of %s", seen, sourcePort, family.foreign)
					}
				}
				before := descriptors(t)
				if _, err := v.Dial(a.Netns, to, socket.DialConfig{Source: family.foreign, SourcePort: 1234}); !errors.Is(err, unix.EADDRNOTAVAIL) {
					t.Errorf("the same 4-tuple again: %v, want EADDRNOTAVAIL", err)
				}
				if after := descriptors(t); after != before {
					t.Errorf("a failed dial left %d descriptors", after-before)
				}
			})
		})
	}
}

// One source makes more connections than it has ports, to several destinations.
func TestVisitorSharesPortsAmongDestinations(t *testing.T) {
	a, b := pair(t)
	a.Sysctl("net.ipv4.ip_local_port_range", "40000 40009")
	first := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	second := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	visit(t, func(v *socket.Visitor) {
		for _, to := range []uint16{port(first), port(second)} {
			for range 8 {
				fd, err := v.Dial(a.Netns, netip.AddrPortFrom(b4, to), socket.DialConfig{Source: a4})
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = unix.Close(fd) }()
				if err := connected(t, fd); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestVisitorTellsOfRefusals(t *testing.T) {
	a, _ := pair(t)
	visit(t, func(v *socket.Visitor) {
		fd, err := v.Dial(a.Netns, netip.AddrPortFrom(b4, 9), socket.DialConfig{})
		if err != nil {
			t.Error(err)
			return
		}
		if err := connected(t, fd); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("closed port: %v, want connection refused", err)
		}
		_ = unix.Close(fd)
	})
}

// Whatever fails leaves no descriptor, and the visitor where it can go home from.
func TestVisitorFailuresLeaveNothing(t *testing.T) {
	a, _ := pair(t)
	gone, err := socket.OpenNetns(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	visit(t, func(v *socket.Visitor) {
		before := descriptors(t)
		for name, dial := range map[string]struct {
			from *socket.Netns
			to   netip.AddrPort
			cfg  socket.DialConfig
			want error
		}{
			"no route":                      {a.Netns, netip.MustParseAddrPort("203.0.113.1:80"), socket.DialConfig{}, unix.ENETUNREACH},
			"a source of the other family":  {a.Netns, netip.AddrPortFrom(b4, 80), socket.DialConfig{Source: a6}, unix.EAFNOSUPPORT},
			"a namespace that is closed":    {gone, netip.AddrPortFrom(b4, 80), socket.DialConfig{}, os.ErrClosed},
			"no route from home, afterward": {nil, netip.MustParseAddrPort("[100::1]:80"), socket.DialConfig{Source: netip.MustParseAddr("127.0.0.1")}, nil},
		} {
			fd, err := v.Dial(dial.from, dial.to, dial.cfg)
			if err == nil || fd != -1 || (dial.want != nil && !errors.Is(err, dial.want)) {
				t.Errorf("%s: Dial = %d, %v, want %v", name, fd, err, dial.want)
			}
		}
		if after := descriptors(t); after != before {
			t.Errorf("failed dials left %d descriptors", after-before)
		}
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Error(err)
	}
	return len(entries)
}

// Staying costs one visit: the thread changes its namespace only when another is asked for.
func TestVisitorStaysBetweenDials(t *testing.T) {
	a, b := pair(t)
	visit(t, func(v *socket.Visitor) {
		for _, at := range []*netns.Namespace{a, a, b, a} {
			fd, err := v.Dial(at.Netns, netip.AddrPortFrom(b4, 9), socket.DialConfig{})
			if err != nil {
				t.Error(err)
				return
			}
			_ = unix.Close(fd)
			if got := here(t); got != at.ID() {
				t.Errorf("the thread is in %v, want %v", got, at.ID())
			}
		}
		if err := v.GoHome(); err != nil {
			t.Error(err)
		}
		if err := v.GoHome(); err != nil {
			t.Error(err)
		}
	})
}

func TestAcceptTellsBothAddresses(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b.Netns, socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:0")})
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(listener uintptr) {
		if fd, _, err := socket.Accept(int(listener)); err != unix.EAGAIN || fd != -1 {
			t.Errorf("Accept of an empty queue = %d, %v", fd, err)
		}
		for _, to := range []netip.Addr{b4, b6} {
			client, err := a.Dial(t.Context(), netip.AddrPortFrom(to, port(l)), socket.DialConfig{})
			if err != nil {
				t.Error(err)
				return
			}
			if n := socket.Waiting(int(listener)); n != 1 {
				t.Errorf("%d connections wait, want 1", n)
			}
			fd, remote, err := socket.Accept(int(listener))
			if n := socket.Waiting(int(listener)); n != 0 {
				t.Errorf("%d connections wait after it was accepted", n)
			}
			if err != nil || remote != socket.Unmap(client.LocalAddr()) {
				t.Errorf("Accept = %s, %v, want %s", remote, err, client.LocalAddr())
			}
			local, err := socket.Local(fd)
			if err != nil || local != netip.AddrPortFrom(to, port(l)) {
				t.Errorf("Local = %s, %v", local, err)
			}
			if original := socket.OriginalDstOf(fd, local); original != local {
				t.Errorf("original destination without NAT = %s, want %s", original, local)
			}
			_ = unix.Close(fd)
			_ = client.Close()
		}
	})
	if _, err := socket.Local(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("Local of no socket = %v", err)
	}
	if n := socket.Waiting(-1); n != 0 {
		t.Errorf("%d connections wait at no socket", n)
	}
}
