package redirect_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Addresses of the two namespaces. stranger is nobody's: the pod's answers to it would leave by the link.
const (
	pod4, pod6           = "10.77.0.1", "fd77::1"
	peer4, peer6         = "10.77.0.2", "fd77::2"
	stranger4, stranger6 = "10.77.9.9", "fd77:0:0:9::9"
	probe4, probe6       = "169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
	patience             = 10 * time.Second
)

// newPair makes a pod and a peer on one link, with routes to the stranger and to the node's probes behind the peer.
func newPair(t *testing.T) (pod, peer *netns.Namespace) {
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

func set(t testing.TB, ns *netns.Namespace, state redirect.State) {
	t.Helper()
	if err := redirect.Set(ns.Netns, state); err != nil {
		t.Fatal(err)
	}
}

// serve listens in a namespace and has handle answer each connection, until the test ends.
func serve(t testing.TB, ns *netns.Namespace, port uint16, mark uint32, handle func(*net.TCPConn)) {
	t.Helper()
	listener, err := ns.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Mark: mark, Transparent: mark != 0})
	if err != nil {
		t.Fatal(err)
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
