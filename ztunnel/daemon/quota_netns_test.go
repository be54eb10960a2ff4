package daemon

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// A pod that opens connections without end is refused more, by a reset; its neighbour on the node notices nothing.
func TestGreedyPodLeavesFilesToItsNeighbours(t *testing.T) {
	m := newMesh(t)
	for _, p := range []*testPod{m.client, m.server} {
		m.describeOn(p, "client-node")
		capturePod(t, p.Namespace)
	}
	const files, share = 400, 400 * podFiles / ofFiles / 2
	restore := limitFiles(t, files)
	m.client.node = startNode(t, m.config(m.client))
	m.client.node.server("readiness") // it has looked at the limit
	restore()
	m.server.node = m.client.node
	if text := m.client.node.agent.add(m.server); text != "" {
		t.Fatal(text)
	}
	m.client.node.enrol(m.client)
	m.client.node.waitReady()
	m.outside.serve(t, 8080)
	m.server.serve(t, 8080)
	plain := netip.AddrPortFrom(m.outside.v4, 8080)
	connect := func(from *testPod) *net.TCPConn {
		_, conn, err := from.call(plain)
		if err != nil {
			return nil
		}
		return conn
	}
	var open []*net.TCPConn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for len(open) <= share {
		conn := connect(m.client)
		if conn == nil {
			break
		}
		open = append(open, conn)
	}
	if len(open) != share/2 { // two sockets each
		t.Fatalf("the pod has %d connections, want %d", len(open), share/2)
	}
	if _, _, err := m.client.call(plain); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the next one sees %v, want a reset", err)
	}
	for range 10 {
		conn := connect(m.server)
		if conn == nil {
			t.Fatal("the neighbour is refused, too")
		}
		conn.Close()
	}
	m.client.node.waitLog("connections are refused", "pod demo/client", "raise the limit of open files")
	if n := m.client.node.metric("tulle_pod_sockets_refused_total"); n != 2 {
		t.Errorf("%v refusals are counted, want 2", n)
	}
	for _, conn := range open {
		conn.Close()
	}
	m.client.node.eventually("take connections again", func() bool {
		conn := connect(m.client)
		if conn != nil {
			conn.Close()
		}
		return conn != nil
	})
	t.Run("by tunnels that arrive", func(t *testing.T) {
		refused := 0
		for range share + 20 {
			conn, err := m.outside.Dial(t.Context(), netip.AddrPortFrom(m.server.v4, 15008), socket.DialConfig{})
			if errors.Is(err, syscall.ECONNRESET) {
				refused++ // before Dial has returned
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, conn)
		}
		for _, conn := range open[len(open)-20+refused:] {
			conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				refused++
			}
		}
		if refused != 20 {
			t.Errorf("%d of 20 connections beyond the share are reset", refused)
		}
		m.client.node.waitLog("connections are refused", "pod demo/server")
		if conn := connect(m.client); conn == nil {
			t.Error("the neighbour is refused, too")
		} else {
			conn.Close()
		}
	})
}

// limitFiles lowers this process's limit of open files until restore is called.
func limitFiles(t *testing.T, most uint64) (restore func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(limit syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	set(syscall.Rlimit{Cur: most, Max: before.Max})
	return func() { set(before) }
}
