package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

// least are the capabilities that ztunnel/README.md lists.
var least = map[string]int{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN}

// only writes capabilities as restrict reads them.
func only(capabilities ...int) string {
	text := fmt.Sprint(capabilities)
	return "caps=" + strings.ReplaceAll(strings.Trim(text, "[]"), " ", ",")
}

func TestTwoCapabilitiesAreEnough(t *testing.T) {
	m := newMesh(t)
	home := netns.New(t, "tulle-ztunnel-test")
	path := zdsPath(t)
	agent := newAgent(t, path)
	n := m.startProcess(home, only(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN), "NODE_NAME=node", "INPOD_UDS="+path)
	n.agent = agent
	for _, p := range []*testPod{m.client, m.server} {
		m.describeOn(p, "node")
		capturePod(t, p.Namespace)
		if text := agent.add(p); text != "" {
			t.Fatalf("enrol %s: %s", p.name, text)
		}
	}
	m.server.serve(t, 8080)
	for _, test := range []struct {
		from *testPod
		to   netip.Addr
		seen string
	}{{m.client, m.server.v4, m.client.v4.String()}, {m.client, m.server.v6, m.client.v6.String()}, {m.outside, m.server.v4, m.outside.v4.String()}} {
		seen, conn, err := test.from.call(netip.AddrPortFrom(test.to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if seen != test.seen {
			t.Errorf("the application sees %s, want the client %s", seen, test.seen)
		}
	}
	n.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("CapEff:\t%016x", 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_SYS_ADMIN)
	if !strings.Contains(string(status), want) {
		t.Errorf("the process has other capabilities than %s:\n%s", want, status)
	}
}

func TestWithoutOneCapabilityTheStartFailsWithWords(t *testing.T) {
	for missing, number := range least {
		t.Run(missing, func(t *testing.T) {
			m := newMesh(t)
			var rest []int
			for _, other := range least {
				if other != number {
					rest = append(rest, other)
				}
			}
			n := m.startProcess(m.outside.Namespace, only(rest...), "NODE_NAME=node", "INPOD_UDS="+zdsPath(t))
			if err := n.wait(); err == nil {
				t.Error("it ended without an error")
			}
			if text := n.log.String(); !strings.Contains(text, "give it "+missing) {
				t.Errorf("nothing asks for %s:\n%s", missing, text)
			}
		})
	}
}

// Without it, what a pod asks of a DNS server would never be answered where capture leaves addresses alone.
func TestDNSCaptureWantsAThirdCapability(t *testing.T) {
	start := func(t *testing.T, capabilities ...int) *node {
		m := newMesh(t)
		return m.startProcess(m.outside.Namespace, only(capabilities...), "NODE_NAME=node", "INPOD_UDS="+zdsPath(t), "ISTIO_META_DNS_CAPTURE=true")
	}
	t.Run("without", func(t *testing.T) {
		n := start(t, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)
		if err := n.wait(); err == nil || !strings.Contains(n.log.String(), "give it CAP_NET_BIND_SERVICE") {
			t.Errorf("it ended with %v and doesn't ask for the capability:\n%s", err, n.log)
		}
	})
	t.Run("with", func(t *testing.T) {
		start(t, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_BIND_SERVICE).waitLog(`of="readiness"`)
	})
}

func TestLimitOfOpenFilesIsRaised(t *testing.T) {
	m := newMesh(t)
	n := m.startProcess(m.outside.Namespace, only(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN), "NODE_NAME=node", "INPOD_UDS="+zdsPath(t))
	n.waitLog("ztunnel begins")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", n.pid))
	if err != nil {
		t.Fatal(err)
	}
	var soft, hard int
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if _, err := fmt.Sscan(rest, &soft, &hard); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Go's runtime does it, and stays one below to remember that it did.
	if hard != 4321 || soft < hard-1 {
		t.Errorf("soft limit %d, hard limit %d; want the soft one, which was 100, at the hard one's 4321", soft, hard)
	}
}

// In-mesh Prometheus scrapes ztunnel itself through a tunnel to ztunnel's own pod.
func TestMeshedClientScrapesZtunnelItself(t *testing.T) {
	m := newMesh(t)
	m.up(m.client)
	m.describe(m.server, nil) // ztunnel's own pod: nothing is captured there
	path := zdsPath(t)
	agent := newAgent(t, path)
	n := m.startProcess(m.server.Namespace, only(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN), "NODE_NAME=server-node", "INPOD_UDS="+path,
		"POD_NAME=server", "POD_NAMESPACE=demo", "SERVICE_ACCOUNT=server", "INSTANCE_IP="+m.server.v4.String())
	n.agent = agent
	m.client.node.waitWorkload("Kubernetes//Pod/demo/server")
	agent.accept()
	for _, addr := range []netip.Addr{m.server.v4, m.server.v6} {
		text := m.client.scrape(t, netip.AddrPortFrom(addr, 15020))
		if !strings.Contains(text, `istio_build{component="ztunnel",tag="test"} 1`) {
			t.Errorf("the page of %s has no istio_build:\n%s", addr, text)
		}
		n.waitLog("connection complete", `direction="inbound"`, "dst.hbone_addr="+netip.AddrPortFrom(addr, 15020).String(), `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
	}
	for _, port := range []uint16{15000, 15001, 15006, 15008} {
		if status, err := m.ask(m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "outside"))), m.server, netip.AddrPortFrom(m.server.v4, port).String()); status == 200 {
			t.Errorf("port %d of ztunnel's pod is reached through its tunnels: %v", port, err)
		}
	}
}
