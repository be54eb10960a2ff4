package socket_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// A connection that waits in a listener's queue survives the end of the one who opened it, and is accepted by the next.
func TestGivenListenerKeepsItsQueue(t *testing.T) {
	n := netns.New(t, "tulle-socket-test")
	addr := netip.MustParseAddrPort("[::]:15001")
	first, err := n.ListenFD(socket.ListenConfig{Addr: addr, ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	given := socket.Given{}
	if err := given.Share(first, false); err != nil {
		t.Fatal(err)
	}
	conn, err := n.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:15001"), socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	unix.Close(first)
	second, err := n.ListenFD(socket.ListenConfig{Addr: addr, ReusePort: true, Mark: socket.Mark, Transparent: true, Given: given})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(second)
	if len(given) != 0 {
		t.Errorf("left over: %v", given.Ports())
	}
	fd, remote, err := socket.Accept(second)
	if err != nil || remote != socket.Unmap(conn.LocalAddr()) {
		t.Fatalf("accepted %s, %v", remote, err)
	}
	unix.Close(fd)
	if mark, err := unix.GetsockoptInt(second, unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != socket.Mark {
		t.Errorf("mark %#x, %v", mark, err)
	}
}

// The standard library's listeners can be given as well.
func TestGivenListenersOfNet(t *testing.T) {
	n := netns.New(t, "tulle-socket-test")
	cfg := socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:15053"), ReusePort: true}
	tcp, err := n.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := n.ListenUDP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Given = socket.Given{}
	rawTCP, _ := tcp.SyscallConn()
	rawUDP, _ := udp.SyscallConn()
	for _, err := range []error{
		rawTCP.Control(func(fd uintptr) { _ = cfg.Given.Share(int(fd), false) }),
		rawUDP.Control(func(fd uintptr) { _ = cfg.Given.Share(int(fd), true) }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := cfg.Given.Verify(n.ID()); err != nil || len(cfg.Given) != 2 {
		t.Fatalf("%v: %v", cfg.Given.Ports(), err)
	}
	client, err := n.DialUDP(cfg.Addr, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Write([]byte("question"))
	tcp.Close()
	udp.Close()
	udp2, err := n.ListenUDP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer udp2.Close()
	tcp2, err := n.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp2.Close()
	buffer := make([]byte, 100)
	udp2.SetReadDeadline(time.Now().Add(10 * time.Second))
	if size, _, err := udp2.ReadFromUDP(buffer); err != nil || string(buffer[:size]) != "question" {
		t.Errorf("read %q, %v", buffer[:size], err)
	}
	conn, err := n.Dial(t.Context(), cfg.Addr, socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp2.SetDeadline(time.Now().Add(10 * time.Second))
	var accepted *net.TCPConn
	if accepted, err = tcp2.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	accepted.Close()
}
