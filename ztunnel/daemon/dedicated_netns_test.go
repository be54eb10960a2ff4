package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

const dedicatedUser = 1337

// captureAllBut sends the pod's traffic to ztunnel as sidecars do: ztunnel's own packets are known by their user, not by
// a mark.
func captureAllBut(t *testing.T, pod *netns.Namespace, uid uint32) {
	t.Helper()
	err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "capture"})
		chain := func(name string, hook *nftables.ChainHook, rules ...[]expr.Any) {
			c := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
			for _, rule := range rules {
				conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: rule})
			}
		}
		user := []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uid)}}
		chain("in", nftables.ChainHookPrerouting, rule(fromLoopback(expr.CmpOpNeq), tcp(), notPort(15008), redirect(15006)))
		chain("out", nftables.ChainHookOutput, rule(user, accept()), rule(toLoopback(), accept()), rule(tcp(), redirect(15001)))
		return conn.Flush()
	})
	if err != nil {
		t.Fatalf("capture %s: %v", pod.Name, err)
	}
}

// A ztunnel of one workload needs neither node agent nor marks nor a single capability, and its peers don't notice.
func TestDedicatedAndSharedZtunnelsTalk(t *testing.T) {
	m := newMesh(t)
	captureAllBut(t, m.server.Namespace, dedicatedUser)
	m.describe(m.server, nil)
	m.server.node = m.startProcess(m.server.Namespace, "uid=1337", "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=demo/server/server", "AUTH_TOKEN=demo:server")
	m.server.node.waitLog("pod enrolled", "demo/server")
	m.up(m.client)
	m.client.serve(t, 8080)
	m.server.serve(t, 8080)
	m.client.node.waitWorkload("Kubernetes//Pod/demo/server")
	for _, call := range []struct {
		name         string
		from, to     *testPod
		client, seen string
	}{
		// Without capabilities applications see ztunnel itself instead of the client.
		{"shared to dedicated", m.client, m.server, "client", m.server.v4.String()},
		{"dedicated to shared", m.server, m.client, "server", m.server.v4.String()},
	} {
		t.Run(call.name, func(t *testing.T) {
			seen, conn, err := call.from.call(netip.AddrPortFrom(call.to.v4, 8080))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if seen != call.seen {
				t.Errorf("the application sees %s, want %s", seen, call.seen)
			}
			call.to.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/`+call.client+`"`)
		})
	}
	t.Run("plain text to dedicated", func(t *testing.T) {
		_, conn, err := m.outside.call(netip.AddrPortFrom(m.server.v4, 8080))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	m.server.node.waitLog("applications won't see their clients' addresses")
}

func TestDedicatedZtunnelDoesNotImpersonate(t *testing.T) {
	m := newMesh(t)
	m.describe(m.server, nil)
	n := m.startProcess(m.server.Namespace, "uid=1337", "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=demo/server/server", "AUTH_TOKEN=demo:somebody-else")
	n.waitLog("certificate not fetched", "certificate service answered for spiffe://cluster.local/ns/demo/sa/somebody-else")
}
