package redirect_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/iptables"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Addresses of the two namespaces. stranger is nobody's: the pod's answers to it would leave by the link.
const (
	pod4, pod6           = "10.77.0.1", "fd77::1"
	peer4, peer6         = "10.77.0.2", "fd77::2"
	stranger4, stranger6 = "10.77.9.9", "fd77:0:0:9::9"
	probe4, probe6       = "169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
	patience             = 30 * time.Second
)

// newPair makes a pod and a peer on one link, with routes to the stranger and to the node's probes behind the peer.
func newPair(t testing.TB) (pod, peer *netns.Namespace) {
	t.Helper()
	pod, peer = netns.New(t, "tulle-redirect-test"), netns.New(t, "tulle-redirect-test")
	prefixes := func(v4, v6 string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(v4 + "/24"), netip.MustParsePrefix(v6 + "/64")}
	}
	netns.Connect(pod, peer, "eth0", prefixes(pod4, pod6), prefixes(peer4, peer6))
	for _, far := range []string{stranger4, stranger6, probe4, probe6} {
		addr := netip.MustParseAddr(far)
		via := netip.MustParseAddr(peer4)
		if addr.Is6() {
			via = netip.MustParseAddr(peer6)
		}
		pod.Route(netip.PrefixFrom(addr, addr.BitLen()), via)
	}
	for _, probe := range []string{probe4, probe6} {
		addr := netip.MustParseAddr(probe)
		peer.Local(netip.PrefixFrom(addr, addr.BitLen()))
	}
	return pod, peer
}

// bed is an engine under test, and the proxy's listeners in the test's namespaces.
type bed struct {
	*redirect.Engines
	engine redirect.Engine
	pins   string
	given  map[*netns.Namespace]socket.Given
	spare  map[spare]*net.TCPListener // opened because the engine wants all, and not used yet
}

type spare struct {
	ns   *netns.Namespace
	addr netip.AddrPort
}

// under is the bed of the running test. Tests of this package don't run at once.
var under *bed

// eachEngine runs a test with every engine.
func eachEngine(t *testing.T, test func(t *testing.T)) {
	for _, engine := range []redirect.Engine{redirect.NFT, redirect.EBPF, redirect.IPTablesNFT, redirect.IPTablesLegacy} {
		t.Run(string(engine), func(t *testing.T) {
			useEngine(t, string(engine))
			test(t)
		})
	}
}

// useEngine makes the bed for a test with one engine, or with "auto".
func useEngine(t testing.TB, engine string) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root")
	}
	if strings.HasPrefix(engine, "iptables") {
		iptables.Need(t)
	}
	dir := pins(t)
	engines, err := redirect.New(redirect.Config{Engine: engine, Pins: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{Engines: engines, engine: redirect.Engine(engine), pins: dir, given: map[*netns.Namespace]socket.Given{}, spare: map[spare]*net.TCPListener{}}
	t.Cleanup(func() {
		for _, given := range b.given {
			given.Close()
		}
		for _, listener := range b.spare {
			listener.Close()
		}
		under = nil
	})
	under = b
	return b
}

// Listing returns a namespace's redirection as text.
func (b *bed) Listing(ns *socket.Netns) (string, error) {
	seen, err := b.Look(ns)
	if err != nil {
		return "", err
	}
	defer seen.Close()
	return seen.String(), nil
}

// pins mounts a bpffs for the time of a test.
func pins(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// desired is a state with the listeners in a namespace; those that the engine wants besides are opened.
func desired(t testing.TB, ns *netns.Namespace, state redirect.State, how ...redirect.How) redirect.Desired {
	t.Helper()
	d := redirect.Desired{State: state}
	if len(how) > 0 {
		d.How = how[0]
	}
	for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
		if addr := netip.AddrPortFrom(netip.IPv6Unspecified(), port); under.hands() && state == redirect.Capture && !under.has(ns, addr) {
			under.spare[spare{ns, addr}] = listen(t, ns, addr)
		}
	}
	if local := netip.MustParseAddrPort("127.0.0.1:15053"); under.hands() && d.How.DNS && !under.has(ns, local) {
		// Nobody answers there, and nobody takes it over: a test that asks opens its own before.
		listener, err := ns.Listen(socket.ListenConfig{Addr: local, Mark: socket.Mark, ReusePort: true})
		if err != nil {
			t.Fatal(err)
		}
		udp, err := ns.ListenUDP(socket.ListenConfig{Addr: local, Mark: socket.Mark, ReusePort: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close(); udp.Close() })
		under.share(t, ns, listener, false)
		under.share(t, ns, udp, true)
	}
	d.Listeners = under.given[ns]
	return d
}

// hands tells that the engine wants the proxy's listeners.
func (b *bed) hands() bool { return b.engine == redirect.EBPF || b.engine == redirect.Auto }

// rewrites tells that the engine rewrites addresses.
func (b *bed) rewrites() bool { return b.engine != redirect.EBPF }

func (b *bed) has(ns *netns.Namespace, addr netip.AddrPort) bool {
	_, ok := b.given[ns][socket.Port{Addr: addr}]
	return ok
}

// share gives the engine a listener of the proxy.
func (b *bed) share(t testing.TB, ns *netns.Namespace, conn syscall.Conn, udp bool) {
	t.Helper()
	if b.given[ns] == nil {
		b.given[ns] = socket.Given{}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = b.given[ns].Share(int(fd), udp) }); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		err = b.Listen(ns.ID(), b.given[ns])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listen opens one of the proxy's listeners, and shares it.
func listen(t testing.TB, ns *netns.Namespace, addr netip.AddrPort) *net.TCPListener {
	t.Helper()
	if listener := under.spare[spare{ns, addr}]; listener != nil {
		delete(under.spare, spare{ns, addr})
		return listener
	}
	listener, err := ns.Listen(socket.ListenConfig{Addr: addr, Mark: socket.Mark, Transparent: true})
	if err != nil {
		t.Fatal(err)
	}
	under.share(t, ns, listener, false)
	return listener
}

func set(t testing.TB, ns *netns.Namespace, state redirect.State, how ...redirect.How) {
	t.Helper()
	if err := under.Set(ns.Netns, desired(t, ns, state, how...)); err != nil {
		t.Fatal(err)
	}
}

// serve listens in a namespace and has handle answer each connection, until the test ends.
func serve(t testing.TB, ns *netns.Namespace, port uint16, mark uint32, handle func(*net.TCPConn)) {
	t.Helper()
	addr := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	var listener *net.TCPListener
	if mark != 0 {
		listener = listen(t, ns, addr)
	} else {
		var err error
		if listener, err = ns.Listen(socket.ListenConfig{Addr: addr}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
}

// app answers with its name and the caller's address, then echoes.
func app(t testing.TB, ns *netns.Namespace, name string, port uint16) {
	serve(t, ns, port, 0, func(conn *net.TCPConn) {
		defer conn.Close()
		fmt.Fprintf(conn, "%s hears %s\n", name, socket.Unmap(conn.RemoteAddr()).Addr())
		_, _ = io.Copy(conn, conn)
	})
}

// announcer stands for the proxy's listener: it tells what was dialled.
func announcer(t testing.TB, ns *netns.Namespace, port uint16) {
	serve(t, ns, port, socket.Mark, func(conn *net.TCPConn) {
		defer conn.Close()
		dst, err := socket.OriginalDst(conn)
		if err != nil {
			fmt.Fprintf(conn, "proxy on %d: %v\n", port, err)
			return
		}
		fmt.Fprintf(conn, "proxy on %d for %s\n", port, dst)
		_, _ = io.Copy(conn, conn)
	})
}

// relay stands for the proxy: it passes captured connections on to where they went.
func relay(t testing.TB, ns *netns.Namespace, port uint16) {
	serve(t, ns, port, socket.Mark, func(conn *net.TCPConn) {
		defer conn.Close()
		dst, err := socket.OriginalDst(conn)
		if err != nil {
			return
		}
		onward, err := ns.Dial(context.Background(), dst, socket.DialConfig{Mark: socket.Mark, Timeout: patience})
		if err != nil {
			return
		}
		defer onward.Close()
		fmt.Fprintf(conn, "relayed: ")
		go func() {
			_, _ = io.Copy(onward, conn)
			_ = onward.CloseWrite()
		}()
		_, _ = io.Copy(conn, onward)
	})
}

// line is a connection under test and what its other end said first.
type line struct {
	conn   *net.TCPConn
	reader *bufio.Reader
	banner string
}

func (l *line) Close() { l.conn.Close() }

func dial(ns *netns.Namespace, to netip.AddrPort, cfg socket.DialConfig) (*line, error) {
	cfg.Timeout = patience
	conn, err := ns.Dial(context.Background(), to, cfg)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	l := &line{conn: conn, reader: bufio.NewReader(conn)}
	if l.banner, err = l.reader.ReadString('\n'); err != nil {
		conn.Close()
		return nil, fmt.Errorf("read banner: %w", err)
	}
	l.banner = strings.TrimSpace(l.banner)
	return l, nil
}

func mustDial(t testing.TB, ns *netns.Namespace, to string, cfg socket.DialConfig) *line {
	t.Helper()
	l, err := dial(ns, netip.MustParseAddrPort(to), cfg)
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(l.Close)
	return l
}

// alive sends a word through the connection and wants it back.
func (l *line) alive(t testing.TB, word string) {
	t.Helper()
	_ = l.conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(l.conn, word); err != nil {
		t.Fatalf("connection is dead %s: %v", word, err)
	}
	got, err := l.reader.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != word {
		t.Fatalf("connection is dead %s: got %q, %v", word, got, err)
	}
}

func hostPort(host string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), port).String()
}
