package daemon

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/tulle-mesh/tulle/mesh/api/security"
)

// denyAll denies a service account everything in the namespace.
func denyAll(name, serviceAccount string) *security.Authorization {
	return &security.Authorization{
		Name: name, Namespace: "demo", Scope: security.Scope_NAMESPACE, Action: security.Action_DENY,
		Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{{
			Principals: []*security.StringMatch{{MatchType: &security.StringMatch_Exact{Exact: "cluster.local/ns/demo/sa/" + serviceAccount}}},
		}}}}}},
	}
}

// strict denies plain text, as the control plane writes PeerAuthentication STRICT.
func strict(scope security.Scope) *security.Authorization {
	return &security.Authorization{
		Name: "strict", Namespace: "demo", Scope: scope, Action: security.Action_DENY,
		Groups: []*security.Group{{Rules: []*security.Rules{{Matches: []*security.Match{{
			NotPrincipals: []*security.StringMatch{{MatchType: &security.StringMatch_Presence{}}},
		}}}}}},
	}
}

func TestStrictRefusesPlainTextOnly(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(strict(security.Scope_NAMESPACE))
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	if _, conn, err := m.outside.call(netip.AddrPortFrom(m.server.v4, 8080)); err == nil {
		conn.Close()
		t.Error("plain text gets in")
	}
	m.server.node.waitLog("connection failed", "denied by policy demo/strict", "src.addr=10.91.0.3:")
	_, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080))
	if err != nil {
		t.Fatalf("a tunnel doesn't: %v", err)
	}
	conn.Close()
}

// Both ends count a denial as such, and the application sees a reset.
func TestDenialIsCountedByBothSides(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(denyAll("no-client", "client"))
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); !errors.Is(err, syscall.ECONNRESET) {
		if err == nil {
			conn.Close()
		}
		t.Errorf("the application sees %v, want a reset", err)
	}
	for reporter, n := range map[string]*node{"source": m.client.node, "destination": m.server.node} {
		count := func(name string, labels ...string) float64 {
			return n.metric(name, append(labels, `reporter="`+reporter+`"`, `source_workload="client"`, `destination_workload="server"`)...)
		}
		n.eventually("count one denied connection", func() bool {
			return count("istio_tcp_connections_opened_total") == 1 && count("istio_tcp_connections_closed_total", `response_flags="DENY"`) == 1 &&
				count("istio_tcp_connections_failed_total", `response_flags="DENY"`) == 1 && count("istio_tcp_connections_failed_total") == 1
		})
	}
	m.server.node.waitLog("connection failed", "denied by policy demo/no-client", `src.workload="client"`)
	m.client.node.waitLog("connection complete", "error", "401")
}

// Whoever forgets to allow port 15008 finds the reason in metrics and log. Nobody waits for ever, and a server says so to its peer.
func TestUnansweredConnectionsEndInTime(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.up(m.client, m.server)
	m.describe(m.outside, nil)
	m.sync()
	drop(t, m.outside, 15008)
	drop(t, m.server, 8080)
	var group sync.WaitGroup
	for _, way := range []way{{"to a tunnel port", m.client, m.outside}, {"to an application through a tunnel", m.client, m.server}, {"to an application in plain text", m.outside, m.server}} {
		group.Go(func() {
			_, conn, err := way.from.callFor(netip.AddrPortFrom(way.to.v4, 8080), 2*patience)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s the application sees %v, want a reset", way.name, err)
			}
		})
	}
	group.Wait()
	for _, want := range []struct {
		node                            *node
		reporter, flag, source, reached string
	}{
		{m.client.node, "source", "NETWORK_POLICY", "client", "outside"},
		{m.client.node, "source", "CONNECT", "client", "server"}, // answered by 503
		{m.server.node, "destination", "CONNECT", "client", "server"},
		{m.server.node, "destination", "CONNECT", "outside", "server"},
	} {
		want.node.eventually("count the failure "+want.flag+" between "+want.source+" and "+want.reached, func() bool {
			return want.node.metric("istio_tcp_connections_failed_total", `reporter="`+want.reporter+`"`, `response_flags="`+want.flag+`"`, `source_workload="`+want.source+`"`, `destination_workload="`+want.reached+`"`) == 1
		})
	}
	m.client.node.waitLog("connection complete", "dst.hbone_addr=10.91.0.2:8080", "503")
}

// drop swallows what is for a port of the pod.
func drop(t *testing.T, pod *testPod, port uint16) {
	t.Helper()
	err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "network-policy"})
		chain := conn.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		same := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)}}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule(tcp(), same, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})})
		return conn.Flush()
	})
	if err != nil {
		t.Fatalf("drop packets to port %d of %s: %v", port, pod.name, err)
	}
}
