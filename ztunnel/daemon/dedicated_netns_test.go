package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

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

// dedicate starts a ztunnel beside the pod's application, as an ordinary user unless other privileges are named.
func (m *mesh) dedicate(p *testPod, privileges string, env ...string) {
	m.t.Helper()
	m.describe(p, nil)
	env = append([]string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=demo/" + p.name + "/" + p.name, "AUTH_TOKEN=demo:" + p.name}, env...)
	p.node = m.startProcess(p.Namespace, privileges, env...)
	p.node.waitLog("pod enrolled", "demo/"+p.name)
}

// mustSee calls an application and checks whom it sees.
func mustSee(t *testing.T, from *testPod, to, want netip.Addr) {
	t.Helper()
	seen, conn, err := from.call(netip.AddrPortFrom(to, 8080))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if seen != want.String() {
		t.Errorf("the application sees %s, want %s", seen, want)
	}
}

// A ztunnel of one workload needs neither node agent nor marks nor a single capability, and its peers don't notice.
// Without capabilities its applications see ztunnel itself instead of the client.
func TestDedicatedAndSharedZtunnelsTalk(t *testing.T) {
	m := newMesh(t)
	captureAllBut(t, m.server.Namespace, dedicatedUser)
	m.dedicate(m.server, "uid=1337")
	m.up(m.client)
	for _, p := range []*testPod{m.client, m.server, m.outside} {
		p.serve(t, 8080)
	}
	m.client.node.waitWorkload("Kubernetes//Pod/demo/server")
	tunnelled := func(to *testPod, client string) {
		t.Helper()
		to.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/`+client+`"`)
	}
	t.Run("shared to dedicated", func(t *testing.T) {
		mustSee(t, m.client, m.server.v4, m.server.v4)
		mustSee(t, m.client, m.server.v6, m.server.v6)
		tunnelled(m.server, "client")
	})
	t.Run("dedicated to shared", func(t *testing.T) {
		mustSee(t, m.server, m.client.v4, m.server.v4)
		mustSee(t, m.server, m.client.v6, m.server.v6)
		tunnelled(m.client, "server")
	})
	t.Run("plain text to dedicated", func(t *testing.T) { mustSee(t, m.outside, m.server.v4, m.server.v4) })
	t.Run("dedicated to plain text", func(t *testing.T) { mustSee(t, m.server, m.outside.v4, m.server.v4) })
	m.server.node.waitLog("applications won't see their clients' addresses")
}

func TestTwoDedicatedZtunnelsTalk(t *testing.T) {
	m := newMesh(t)
	for _, p := range []*testPod{m.client, m.server} {
		captureAllBut(t, p.Namespace, dedicatedUser)
		m.dedicate(p, "uid=1337")
	}
	m.sync()
	m.server.serve(t, 8080)
	mustSee(t, m.client, m.server.v4, m.server.v4)
	mustSee(t, m.client, m.server.v6, m.server.v6)
	for _, addr := range m.server.both() {
		m.server.node.waitLog("connection complete", `direction="inbound"`, "dst.hbone_addr="+netip.AddrPortFrom(addr, 8080).String(), `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
	}
}

func TestDedicatedZtunnelWithOneCapabilityKeepsClientsAddresses(t *testing.T) {
	m := newMesh(t)
	capturePod(t, m.server.Namespace)
	m.dedicate(m.server, only(unix.CAP_NET_ADMIN), "PACKET_MARK=1337")
	m.up(m.client)
	m.server.serve(t, 8080)
	m.client.node.waitWorkload("Kubernetes//Pod/demo/server")
	mustSee(t, m.client, m.server.v4, m.client.v4)
	mustSee(t, m.outside, m.server.v4, m.outside.v4)
	m.server.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
}

func TestDedicatedZtunnelDoesNotImpersonate(t *testing.T) {
	m := newMesh(t)
	m.describe(m.server, nil)
	n := m.startProcess(m.server.Namespace, "uid=1337", "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=demo/server/server", "AUTH_TOKEN=demo:somebody-else")
	n.waitLog("certificate not fetched", "certificate service answered for spiffe://cluster.local/ns/demo/sa/somebody-else")
}
