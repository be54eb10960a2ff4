package daemon

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

var socksAddr = netip.MustParseAddrPort("127.0.0.1:15080")

// callSOCKS asks the pod's SOCKS5 server for a connection to an IPv4 address, and returns it as soon as it is granted.
func (p *testPod) callSOCKS(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := p.Dial(ctx, socksAddr, socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, to.Addr().AsSlice()...)
	request = append(request, byte(to.Port()>>8), byte(to.Port()))
	answer := make([]byte, 2+10)
	if _, err = conn.Write(request); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err != nil || string(answer[:4]) != "\x05\x00\x05\x00" {
		t.Fatalf("SOCKS5 answers %x, %v", answer, err)
	}
	return conn
}

func TestConnectionsBySOCKSAreLikeCapturedOnes(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"UNSTABLE_ENABLE_SOCKS5=true"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	conn := m.client.callSOCKS(t, netip.AddrPortFrom(m.server.v4, 8080))
	if seen, err := readLine(conn); err != nil || seen != m.client.v4.String() {
		t.Errorf("the application sees %q, %v; want the client", seen, err)
	}
	alive(t, conn)
	conn.Close()
	m.server.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/client"`, "dst.hbone_addr=10.91.0.2:8080")
	m.client.node.waitLog("connection complete", `direction="outbound"`, "src.addr=127.0.0.1:", `dst.identity="spiffe://cluster.local/ns/demo/sa/server"`)
	t.Run("ztunnel's own ports", func(t *testing.T) {
		for _, port := range []uint16{15001, 15006, 15008, 15080} {
			cut(t, m.client.callSOCKS(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)))
		}
	})
	t.Run("from outside", func(t *testing.T) {
		if conn, err := m.outside.Dial(t.Context(), netip.AddrPortFrom(m.server.v4, 15080), socket.DialConfig{}); err == nil {
			defer conn.Close()
			cut(t, conn)
		}
	})
	t.Run("drain", func(t *testing.T) {
		open := m.client.callSOCKS(t, netip.AddrPortFrom(m.server.v4, 8080))
		if _, err := readLine(open); err != nil {
			t.Fatal(err)
		}
		m.client.node.drain.Start("test")
		m.client.node.eventually("take no more", func() bool {
			conn, err := m.client.Dial(t.Context(), socksAddr, socket.DialConfig{})
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		alive(t, open)
		open.Close()
		if err := m.client.node.wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestSOCKSIsOffUnlessAskedFor(t *testing.T) {
	m := newMesh(t)
	m.up(m.client)
	if conn, err := m.client.Dial(t.Context(), socksAddr, socket.DialConfig{}); err == nil {
		conn.Close()
		t.Error("the port is open")
	}
}
