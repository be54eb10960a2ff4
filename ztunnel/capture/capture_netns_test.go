package capture_test

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

var pod4, pod6 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")

func wildcard() socket.ListenConfig {
	return socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), 0), ReusePort: true, Mark: socket.Mark, Transparent: true}
}

// workers makes two, until the test's end.
func workers(t *testing.T) []*worker.Worker {
	t.Helper()
	all, err := worker.Start(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { worker.Close(all) })
	return all
}

func TestListenersHandOnWithOriginalDestination(t *testing.T) {
	pod := netns.New(t, "tulle-capture-test")
	type arrival struct {
		role string
		conn capture.Conn
	}
	arrivals := make(chan arrival, 1)
	tunnels := make(chan int, 1)
	l, err := capture.Open(capture.Config{
		Workers: workers(t), Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler),
		Outbound: func(conn capture.Conn) { arrivals <- arrival{"outbound", conn} },
		Inbound:  func(conn capture.Conn) { arrivals <- arrival{"inbound", conn} },
		HBONE:    func(_ *worker.Worker, fd int, _, _ netip.AddrPort) { tunnels <- fd },
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
			_ = got.conn.Worker.Do(got.conn.Refuse)
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
		_ = unix.Close(<-tunnels)
		conn.Close()
	}
	l.Close()
	l.Wait(t.Context())
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
	cfg := capture.Config{Workers: workers(t), Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler), Outbound: func(conn capture.Conn) { _ = unix.Close(conn.FD); conn.Decided() }}
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
	first.Wait(t.Context())
	second.Wait(t.Context())
}

func TestAllListenersOrNone(t *testing.T) {
	ports := []uint16{15001, 15006, 15008}
	for _, port := range ports {
		t.Run(strconv.Itoa(int(port)), func(t *testing.T) {
			pod := netns.New(t, "tulle-capture-test")
			taken, err := pod.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			_, err = capture.Open(capture.Config{
				Workers: workers(t), Netns: pod.Netns, Listener: wildcard(), Log: slog.New(slog.DiscardHandler),
				Outbound: func(capture.Conn) {}, Inbound: func(capture.Conn) {}, HBONE: func(*worker.Worker, int, netip.AddrPort, netip.AddrPort) {},
			})
			if err == nil || !strings.Contains(err.Error(), strconv.Itoa(int(port))) || !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatalf("opening with the port taken gives %v", err)
			}
			for _, other := range ports {
				if other == port {
					continue
				}
				if conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, other), socket.DialConfig{}); err == nil {
					conn.Close()
					t.Errorf("port %d stayed open", other)
				}
			}
		})
	}
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError)
	return ok && op.Err.Error() == "read: connection reset by peer"
}
