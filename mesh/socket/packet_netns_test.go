package socket_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Both ends of a datagram are where they were asked to be, and marked.
func TestDatagramsBetweenNamespaces(t *testing.T) {
	a, b := pair(t)
	for _, addrs := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		cfg := socket.ListenConfig{Addr: netip.AddrPortFrom(addrs[1], 5300), Mark: socket.Mark, ReusePort: true}
		server, err := b.ListenUDP(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		second, err := b.ListenUDP(cfg)
		if err != nil {
			t.Fatalf("a second process can't share the port: %v", err)
		}
		second.Close()
		client, err := a.DialUDP(cfg.Addr, socket.Mark)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if got := client.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr(); got != addrs[0] {
			t.Errorf("the client is at %v, want %v", got, addrs[0])
		}
		if _, err := client.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		server.SetDeadline(time.Now().Add(5 * time.Second))
		buffer := make([]byte, 10)
		n, from, err := server.ReadFromUDPAddrPort(buffer)
		if err != nil || string(buffer[:n]) != "ping" || from.Addr().Unmap() != addrs[0] {
			t.Errorf("received %q from %v, %v", buffer[:n], from, err)
		}
		if mark := option(t, client, unix.SOL_SOCKET, unix.SO_MARK); mark != socket.Mark {
			t.Errorf("the client's mark is %#x", mark)
		}
		if mark := option(t, server, unix.SOL_SOCKET, unix.SO_MARK); mark != socket.Mark {
			t.Errorf("the server's mark is %#x", mark)
		}
	}
}

// A retired socket still answers what it was asked, and its port's next datagrams are another's.
func TestRetiredSocketLeavesItsPortToAnother(t *testing.T) {
	a, _ := pair(t)
	for _, addr := range []string{"127.0.0.1:5300", "[::1]:5300"} {
		cfg := socket.ListenConfig{Addr: netip.MustParseAddrPort(addr), ReusePort: true}
		old, err := a.ListenUDP(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		client, err := a.DialUDP(cfg.Addr, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		deadline := time.Now().Add(5 * time.Second)
		client.SetDeadline(deadline)
		old.SetDeadline(deadline)
		if _, err := client.Write([]byte("first")); err != nil {
			t.Fatal(err)
		}
		next, err := a.ListenUDP(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		next.SetDeadline(deadline)
		if err := socket.Retire(old); err != nil {
			t.Fatal(err)
		}
		for range 100 { // each from another port, so that the kernel chooses anew
			other, err := a.DialUDP(cfg.Addr, 0)
			if err != nil {
				t.Fatal(err)
			}
			other.Write([]byte("later"))
			other.Close()
		}
		buffer := make([]byte, 10)
		n, from, err := old.ReadFromUDPAddrPort(buffer)
		if err != nil || string(buffer[:n]) != "first" {
			t.Fatalf("the retired socket reads %q, %v", buffer[:n], err)
		}
		if _, err := old.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Errorf("the retired socket can't answer: %v", err)
		}
		if n, err := client.Read(buffer); err != nil || string(buffer[:n]) != "answer" {
			t.Errorf("the client reads %q, %v", buffer[:n], err)
		}
		for i := range 100 {
			if n, _, err := next.ReadFromUDPAddrPort(buffer); err != nil || string(buffer[:n]) != "later" {
				t.Fatalf("%s: datagram %d of the next socket: %q, %v", addr, i, buffer[:n], err)
			}
		}
	}
}

func TestLoopbackWithoutIPv6IsSeen(t *testing.T) {
	a, b := pair(t)
	b.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
	if !a.LoopbackIPv6() || b.LoopbackIPv6() {
		t.Errorf("with IPv6: %v, without: %v", a.LoopbackIPv6(), b.LoopbackIPv6())
	}
}
