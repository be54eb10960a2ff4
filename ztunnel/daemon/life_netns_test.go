package daemon

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

func contains(text, word string) bool { return strings.Contains(text, word) }

func TestDrainLetsConnectionsFinish(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	m.server.node.drain.Start("test")
	m.server.node.eventually("stop taking connections", func() bool {
		_, conn, err := m.outside.call(to)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	alive(t, tunnelled)
	alive(t, plain)
	tunnelled.Close()
	plain.Close()
	if err := m.server.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestDrainDeadlineCuts(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	m.server.node.drain.Start("test")
	m.server.node.waitLog("drain", "reason=")
	alive(t, tunnelled)
	m.server.node.drain.Force("deadline")
	cut(t, tunnelled)
	cut(t, plain)
	m.server.node.waitLog("warn", "drain forced", `reason="deadline"`)
	if err := m.server.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Connections may go on until the deadline of CONNECTION_TERMINATION_DEADLINE, and not a moment longer.
func TestConnectionsLiveUntilTheDrainDeadline(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"CONNECTION_TERMINATION_DEADLINE=700ms"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	start := time.Now()
	m.server.node.drain.Start("test")
	m.server.node.waitLog("drain", "deadline=700ms")
	alive(t, tunnelled)
	alive(t, plain)
	cut(t, tunnelled)
	cut(t, plain)
	if took := time.Since(start); took < 700*time.Millisecond {
		t.Errorf("they were cut after %s", took)
	}
	if err := m.server.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// ENABLE_PROXY=false leaves a ztunnel that only follows the control plane.
func TestWithoutProxyingNoAgentIsNeeded(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"ENABLE_PROXY=false"}
	m.describe(m.server, nil)
	n := startNode(t, m.config(m.server))
	n.waitReady()
	n.waitWorkload("Kubernetes//Pod/demo/server")
	if strings.Contains(n.log.String(), "connected to the node agent") {
		t.Error("it asks an agent for pods")
	}
}

func TestClientSideDrainLetsConnectionsFinish(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	conn := mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080))
	m.client.node.drain.Start("test")
	m.client.node.waitLog("drain", "reason=")
	alive(t, conn)
	conn.Close()
	if err := m.client.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestQuitPageDrains(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	addr := m.server.node.server("administration")
	response, err := http.Post("http://"+addr+"/quitquitquit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if err := m.server.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestDeletedPodIsCutAtOnce(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	if text := m.server.node.agent.del(m.server); text != "" {
		t.Errorf("del is answered %q", text)
	}
	cut(t, tunnelled)
	cut(t, plain)
	if _, conn, err := m.outside.call(to); err == nil {
		conn.Close()
		t.Error("the pod still takes connections")
	}
	m.server.node.eventually("forget the identity", func() bool {
		_, text := m.server.node.get("administration", "/config_dump")
		return !contains(text, `"identity": "spiffe://cluster.local/ns/demo/sa/server"`)
	})
}

// A pod whose interface is gone before the agent deletes it holds up nobody else, though its tunnels' peers never answer.
func TestDeletedPodWithoutAnInterface(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	m.client.serve(t, 8080)
	mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080)).Close()
	mustCall(t, m.server, netip.AddrPortFrom(m.client.v4, 8080)).Close()
	for _, link := range []string{"eth0", "eth2"} {
		if out, err := exec.Command("ip", "-n", m.server.Name, "link", "delete", link).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	begin := time.Now()
	if text := m.server.node.agent.del(m.server); text != "" {
		t.Errorf("del is answered %q", text)
	}
	if took := time.Since(begin); took > 5*farewell {
		t.Errorf("the agent's answer took %s", took)
	}
}

// The other side of a deleted client sees it at once, too, and not only when the interface has been gone for a while.
func TestDeletedClientIsCutOnBothSides(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	l, err := m.server.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:7070")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := m.outside.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:7070")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	near, far := accepted(t, m.client, l, netip.AddrPortFrom(m.server.v4, 7070))
	plainNear, plainFar := accepted(t, m.client, other, netip.AddrPortFrom(m.outside.v4, 7070))
	if text := m.client.node.agent.del(m.client); text != "" {
		t.Errorf("del is answered %q", text)
	}
	for _, end := range []*net.TCPConn{near, far, plainNear, plainFar} {
		cut(t, end)
	}
	m.server.node.waitAccounts()
	m.client.node.waitAccounts()
}

func TestAgentRestartCutsNothing(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	before := mustCall(t, m.client, to)
	n := m.server.node
	n.agent.conn.Close()
	n.eventually("be unready without an agent", func() bool {
		status, text := n.get("readiness", "/healthz/ready")
		return status == 500 && contains(text, "workload proxy manager")
	})
	alive(t, before)
	n.agent.accept()
	n.enrol(m.server)
	n.waitReady()
	alive(t, before)
	mustCall(t, m.client, to)
	// The next agent doesn't know the pod any more.
	n.agent.conn.Close()
	n.agent.accept()
	n.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}, nil)
	cut(t, before)
}

func TestPodWhosePortsAreTakenIsPending(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.describe(m.server, nil)
	taken, err := m.server.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:15006")})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	m.server.node = startNode(t, m.config(m.server))
	if text := m.server.node.agent.add(m.server); !contains(text, "address already in use") {
		t.Errorf("add is answered %q", text)
	}
	m.server.node.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}, nil)
	if status, text := m.server.node.get("readiness", "/healthz/ready"); status != 500 {
		t.Errorf("readiness is %d %q", status, text)
	}
	taken.Close()
	m.server.node.waitReady() // tried again
}

func TestManyPodsOnANode(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	start := time.Now()
	for i := range 20 {
		extra := &testPod{Namespace: netns.New(t, "tulle-ztunnel-test"), name: "extra-" + string(rune('a'+i))}
		if text := m.server.node.agent.add(extra); text != "" {
			t.Fatal(text)
		}
	}
	t.Logf("20 pods enrolled in %s", time.Since(start))
	m.server.node.eventually("count the pods", func() bool { return m.server.node.metric("workload_manager_active_proxy_count") == 21 })
}

// An attempt that waits for a silent peer ends with its pod, not with its own time limit.
func TestDeletedPodGivesUpAttempts(t *testing.T) {
	m := newMesh(t)
	m.up(m.client)
	silent, err := m.outside.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:15008")})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	m.describe(m.outside, nil) // as a pod with tunnels
	m.client.node.waitWorkload("Kubernetes//Pod/demo/outside")
	conn, err := m.client.Dial(t.Context(), netip.AddrPortFrom(m.outside.v4, 8080), socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tunnel, err := silent.AcceptTCP() // the handshake begins, and is never answered
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	start := time.Now()
	m.client.node.agent.del(m.client)
	cut(t, conn)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	m.client.node.waitLog("connection complete", "the pod is stopping")
}

// Arrivals that wait for the control plane fill the pod's room; more wait for that. None of it outlives the deadline.
func TestDrainDeadlineEndsArrivalsThatWait(t *testing.T) {
	m := newMesh(t)
	capturePod(t, m.server.Namespace)
	m.server.node = startNode(t, m.config(m.server))
	m.server.node.enrol(m.server)
	m.server.node.waitReady()
	to := netip.AddrPortFrom(m.server.v4, 8080)
	var last net.Conn
	for range 4096 + 10 {
		conn, err := m.outside.Dial(t.Context(), to, socket.DialConfig{Timeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		last = conn
	}
	start := time.Now()
	m.server.node.drain.Force("deadline")
	if err := m.server.node.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(start); took > selfTimeout/2 {
		t.Errorf("it took %s", took)
	}
	last.SetReadDeadline(time.Now().Add(patience))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the last arrival ends with %v", err)
	}
}
