package daemon

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/settings"
)

// cut waits for a connection to end by force.
func cut(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection lives on")
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

// alive makes sure that a connection still carries bytes both ways.
func alive(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	_, err := conn.Write([]byte("still\n"))
	var line string
	if err == nil {
		line, err = readLine(conn)
	}
	if err != nil || line != "still" {
		t.Errorf("the connection doesn't live on: %q, %v", line, err)
	}
}

func mustCall(t *testing.T, from *testPod, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	_, conn, err := from.call(to)
	if err != nil {
		t.Fatalf("%s calls %s: %v", from.name, to, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestNewPolicyCutsWhatItDenies(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	m.istiod.Set(denyAll("no-client", "client"))
	cut(t, tunnelled)
	m.server.node.waitLog("connection complete", "closed due to policy change", "demo/no-client", `src.workload="client"`)
	alive(t, plain)
	m.istiod.Set(strict(security.Scope_NAMESPACE))
	cut(t, plain)
	m.server.node.waitLog("connection complete", "closed due to policy change", "demo/strict", "src.addr=10.91.0.3:")
	if got := m.server.node.metric("istio_tcp_connections_failed_total", `response_flags="DENY"`); got != 2 {
		t.Errorf("%v cuts counted, want 2", got)
	}
	m.istiod.Remove("type.googleapis.com/istio.security.Authorization", "demo/no-client", "demo/strict")
	m.sync()
	eventually(t, "be let in again", func() bool {
		_, conn, err := m.outside.call(to)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// A policy that selects workloads comes into force when a workload lists it: the connections there are must feel that.
func TestAttachedPolicyCuts(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(strict(security.Scope_WORKLOAD_SELECTOR))
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	tunnelled, plain := mustCall(t, m.client, to), mustCall(t, m.outside, to)
	m.describe(m.server, func(w *workload.Workload) { w.AuthorizationPolicies = []string{"demo/strict"} })
	cut(t, plain)
	alive(t, tunnelled)
}

// A policy that a pod is said to have, but that doesn't come, keeps new connections out: it may be a DENY.
func TestUnknownPolicyLetsNothingNewIn(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.up(m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	before := mustCall(t, m.outside, to)
	m.describe(m.server, func(w *workload.Workload) { w.AuthorizationPolicies = []string{"demo/not-there"} })
	m.server.node.waitWorkload("demo/not-there")
	if _, conn, err := m.outside.call(to); err == nil {
		conn.Close()
		t.Error("a connection gets in although a policy isn't known")
	}
	m.server.node.waitLog("connection failed", "demo/not-there is not known")
	alive(t, before)
	m.istiod.Set(func() *security.Authorization {
		p := strict(security.Scope_WORKLOAD_SELECTOR)
		p.Name = "not-there"
		return p
	}())
	cut(t, before) // now it is known, and denies
}

// A pod that the control plane forgets may be ending; its connections end in their own time.
func TestForgottenPodKeepsItsConnections(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	conn := mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080))
	m.istiod.Remove("type.googleapis.com/istio.workload.Address", "Kubernetes//Pod/demo/server")
	m.sync()
	m.server.node.eventually("forget the pod", func() bool {
		_, text := m.server.node.get("administration", "/config_dump")
		return !contains(text, "Kubernetes//Pod/demo/server")
	})
	alive(t, conn)
	m.istiod.Set(denyAll("no-client", "client"))
	cut(t, conn) // by the pod's last description
}

func TestControlPlaneOutage(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	before := mustCall(t, m.client, to)
	m.istiod.Stop()
	m.server.node.waitLog("xds")
	alive(t, before)
	mustCall(t, m.client, to)
	mustCall(t, m.outside, to)
	m.istiod.Restart()
	m.istiod.Set(denyAll("no-client", "client"))
	cut(t, before)
}

func TestStateFromAFile(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const pods = `
workloads:
- {uid: client, name: client, namespace: demo, serviceAccount: client, workloadIps: [10.91.0.1], protocol: HBONE, node: client-node}
- {uid: server, name: server, namespace: demo, serviceAccount: server, workloadIps: [10.91.0.2], protocol: HBONE, node: server-node}
`
	write(pods)
	for _, p := range []*testPod{m.client, m.server} {
		capturePod(t, p.Namespace)
		cfg := m.config(p)
		cfg.LocalXDS, cfg.XDS.Address = settings.Local{Path: path}, ""
		p.node = startNode(t, cfg)
		p.node.enrol(p)
		p.node.waitReady()
	}
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	conn := mustCall(t, m.client, to)
	write(pods + `
policies:
- {name: none, namespace: demo, scope: Namespace, action: Allow, rules: []}
`)
	cut(t, conn)
	m.server.node.waitLog("closed due to policy change", "allow policies exist, but none allowed")
	write("workloads: [")
	m.server.node.waitLog("file not taken")
	write(pods + "policies:\n- {name: broken, namespace: demo, scope: Namespace, action: Allow, rules: [[[{sourceIps: [nonsense]}]]]}\n")
	m.server.node.waitLog("file not taken", "nonsense")
	if _, again, err := m.client.call(to); err == nil {
		again.Close()
		t.Error("a broken file put the policies out of force")
	}
	write(pods) // without the policy
	eventually(t, "be let in again", func() bool {
		_, again, err := m.client.call(to)
		if err == nil {
			again.Close()
		}
		return err == nil
	})
}
