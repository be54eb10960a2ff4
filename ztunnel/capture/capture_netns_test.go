package capture_test

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

var pod4, pod6 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")

func wildcard() socket.ListenConfig {
	return socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), 0), ReusePort: true, Mark: socket.Mark, Transparent: true}
}

func TestListenersHandOnWithOriginalDestination(t *testing.T) {
	pod := netns.New(t, "tulle-capture-test")
	type arrival struct {
		role string
		conn capture.Conn
	}
	arrivals := make(chan arrival, 1)
	tunnels := make(chan *net.TCPConn, 1)
	l, err := capture.Open(capture.Config{
		Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler),
		Outbound: func(conn capture.Conn) { arrivals <- arrival{"outbound", conn} },
		Inbound:  func(conn capture.Conn) { arrivals <- arrival{"inbound", conn} },
		HBONE:    func(conn *net.TCPConn) { tunnels <- conn },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{pod4, pod6} {
		for port, role := range map[uint16]string{15001: "outbound", 15006: "inbound"} {
			to := netip.AddrPortFrom(addr, port)
			conn, err := pod.Dial(t.Context(), to, socket.DialConfig{})
			if err != nil {
				t.Fatal(err)
			}
			got := <-arrivals
			if got.role != role || got.conn.Original.AddrPort != to || got.conn.Client.AddrPort != socket.Unmap(conn.LocalAddr()) {
				t.Errorf("%s arrives as %s, from %s to %s", to, got.role, got.conn.Client, got.conn.Original)
			}
			got.conn.Refuse()
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || !isReset(err) {
				t.Errorf("a refused connection ends with %v, want a reset", err)
			}
			conn.Close()
		}
		conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(addr, 15008), socket.DialConfig{})
		if err != nil {
			t.Fatal(err)
		}
		(<-tunnels).Close()
		conn.Close()
	}
	l.Close()
	l.Wait()
	for _, port := range []uint16{15001, 15006, 15008} {
		if conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, port), socket.DialConfig{}); err == nil {
			conn.Close()
			t.Errorf("port %d is still open", port)
		}
	}
}

// Two processes serve a pod while one replaces the other.
func TestNewGenerationListensBesideTheOld(t *testing.T) {
	pod := netns.New(t, "tulle-capture-test")
	cfg := capture.Config{Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler), Outbound: func(conn capture.Conn) { conn.Close() }}
	first, err := capture.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := capture.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, 15001), socket.DialConfig{})
	if err != nil {
		t.Errorf("after the first ended: %v", err)
	} else {
		conn.Close()
	}
	second.Close()
	first.Wait()
	second.Wait()
}

func TestAllListenersOrNone(t *testing.T) {
	pod := netns.New(t, "tulle-capture-test")
	taken, err := pod.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:15008")})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = capture.Open(capture.Config{
		Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler),
		Outbound: func(capture.Conn) {}, Inbound: func(capture.Conn) {}, HBONE: func(*net.TCPConn) {},
	})
	if err == nil {
		t.Fatal("opened although a port is taken")
	}
	if conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, 15001), socket.DialConfig{}); err == nil {
		conn.Close()
		t.Error("the other ports stayed open")
	}
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError)
	return ok && op.Err.Error() == "read: connection reset by peer"
}
