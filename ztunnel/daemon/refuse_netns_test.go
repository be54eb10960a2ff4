package daemon

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

func TestTunnelRequestsAreAnsweredByTheirFaults(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(denyAll("no-outsiders", "denied"), webAt(func(s *workload.Service) {
		s.Ports = append(s.Ports, &workload.Port{ServicePort: 81}, &workload.Port{ServicePort: 82}, &workload.Port{ServicePort: 83, TargetPort: 15006})
	}))
	m.up(m.server)
	m.describe(m.server, func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{"demo/" + webHost: {Ports: []*workload.Port{{ServicePort: 81, TargetPort: 8080}}}}
	})
	m.sync()
	m.server.serve(t, 8080)
	good := m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "outside")))
	denied := m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "denied")))
	for _, test := range []struct {
		name      string
		asker     *byhand.Client
		authority string
		want      int
		log       string
	}{
		{"allowed", good, "10.91.0.2:8080", 200, ""},
		{"denied by policy", denied, "10.91.0.2:8080", 401, "denied by policy demo/no-outsiders"},
		{"another address", good, "10.91.0.77:8080", 400, "ip mismatch"},
		{"loopback", good, "127.0.0.1:8080", 400, "ip mismatch"},
		{"loopback's own server", good, "127.0.0.1:15000", 400, "ip mismatch"},
		{"outbound port", good, "10.91.0.2:15001", 503, "ztunnel's own ports"},
		{"plain-text port", good, "10.91.0.2:15006", 503, "ztunnel's own ports"},
		{"tunnel port", good, "10.91.0.2:15008", 503, "ztunnel's own ports"},
		{"hostname", good, webHost + ":80", 200, ""},
		{"hostname, named port", good, webHost + ":81", 200, ""},
		{"hostname, named port that the pod lacks", good, webHost + ":82", 503, "names no port of this pod"},
		{"hostname, port that the service lacks", good, webHost + ":8080", 503, "names no port of this pod"},
		{"hostname, one of ztunnel's ports", good, webHost + ":83", 503, "ztunnel's own ports"},
		{"hostname, denied by policy", denied, webHost + ":80", 401, "denied by policy demo/no-outsiders"},
		{"own address of the other family", good, "[fd91::2]:8080", 400, "ip mismatch"},
		{"own service's address", good, "10.96.0.1:80", 400, "ip mismatch"},
		{"unknown host", good, "nobody.example:80", 503, "nobody knows the host"},
		{"nobody listens", good, "10.91.0.2:9999", 503, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, err := m.ask(test.asker, m.server, test.authority)
			if err != nil || status != test.want {
				t.Errorf("answered %d, %v; want %d", status, err, test.want)
			}
			if test.log != "" {
				m.server.node.waitLog("dst.hbone_addr="+test.authority, test.log)
			}
		})
	}
	if got := m.server.node.metric("istio_tcp_connections_failed_total", `response_flags="DENY"`, `reporter="destination"`); got != 2 {
		t.Errorf("%v denials counted, want 2", got)
	}
}

func TestPeersThatCantProveWhoTheyAre(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	m.server.serve(t, 8080)
	id := m.ca.Identity("demo", "outside")
	stranger := testca.New(t, "cluster.local")
	foreign := testca.New(t, "other.domain")
	for name, credential := range map[string]*mtls.Credential{
		"expired":            m.ca.Issue(testca.Spec{Identity: id, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}),
		"not yet valid":      m.ca.Issue(testca.Spec{Identity: id, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}),
		"unknown authority":  stranger.Credential(id),
		"other trust domain": foreign.Credential(foreign.Identity("demo", "outside")),
	} {
		t.Run(name, func(t *testing.T) {
			credential.Roots = m.ca.Credential(id).Roots // the server is not in doubt
			if status, err := m.ask(m.asker(m.outside.Netns, credential), m.server, "10.91.0.2:8080"); err == nil {
				t.Errorf("answered %d, want no tunnel", status)
			}
		})
	}
	for _, reason := range []string{"has expired or is not yet valid", "unknown authority", "other.domain"} {
		m.server.node.waitLog("connection failed", reason)
	}
	// A peer hears of the refusal after its own handshake, and may have tried again.
	m.server.node.eventually("count the failures", func() bool {
		return m.server.node.metric("istio_tcp_connections_failed_total", `response_flags="TLS_FAILURE"`) >= 4
	})
}

func TestPeerWithoutCertificateGetsNoTunnel(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	bare := m.ca.Credential(m.ca.Identity("demo", "outside"))
	bare.Certificate.Certificate = nil
	if status, err := m.ask(m.asker(m.outside.Netns, bare), m.server, "10.91.0.2:8080"); err == nil {
		t.Errorf("answered %d, want no tunnel", status)
	}
}

func TestServerThatIsSomebodyElseIsNotTrusted(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	m.describe(m.server, func(w *workload.Workload) { w.ServiceAccount = "the-real-one" })
	m.client.node.waitWorkload("the-real-one")
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); err == nil {
		conn.Close()
		t.Fatal("the client talks to a pod that isn't who the control plane says")
	}
	m.client.node.waitLog("connection complete", "TLS handshake", `direction="outbound"`)
	if got := m.client.node.metric("istio_tcp_connections_failed_total", `response_flags="TLS_FAILURE"`, `reporter="source"`); got != 1 {
		t.Errorf("%v failures counted, want 1", got)
	}
}

// The ports of ztunnel itself are no way in, whoever calls and by whatever address, and no way to keep it busy with itself.
func TestZtunnelsOwnPortsLeadNowhere(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"UNSTABLE_ENABLE_SOCKS5=true", "ISTIO_META_DNS_CAPTURE=true"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	targets := append(append(append(m.client.both(), m.server.both()...), m.outside.both()...), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	var group sync.WaitGroup
	for _, from := range []*testPod{m.client, m.server, m.outside} {
		group.Go(func() {
			for _, to := range targets {
				for _, port := range []uint16{15001, 15006, 15008, 15053, 15080, 15088, 15000, 15020, 15021} {
					start := time.Now()
					seen, conn, err := from.call(netip.AddrPortFrom(to, port))
					if err == nil {
						conn.Close()
						t.Errorf("%s reaches %s through %s", from.name, seen, netip.AddrPortFrom(to, port))
					}
					if took := time.Since(start); took > patience-time.Second {
						t.Errorf("%s calls %s for %s: %v", from.name, netip.AddrPortFrom(to, port), took, err)
					}
				}
			}
		})
	}
	group.Wait()
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); err != nil {
		t.Errorf("afterwards nothing works any more: %v", err)
	} else {
		conn.Close()
	}
	for _, n := range []*node{m.client.node, m.server.node} {
		n.waitAccounts()
		if n.metric("istio_tcp_connections_failed_total") == 0 {
			t.Error("what was turned away early isn't counted")
		}
	}
}

// waitAccounts waits until every connection is counted once as opened and once as closed, and no socket as open.
func (n *node) waitAccounts() {
	n.t.Helper()
	n.eventually("count all connections as closed", func() bool {
		opened := n.metric("istio_tcp_connections_opened_total")
		return opened > 0 && opened == n.metric("istio_tcp_connections_closed_total") && n.metric("istio_tcp_sockets_open") == 0
	})
}

func TestWaypointsAreNeverGoneRound(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	m.describe(m.server, func(w *workload.Workload) {
		w.CanonicalName = "guarded"
		w.Waypoint = &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: "waypoint"}}}
	})
	m.client.node.waitWorkload("guarded")
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); err == nil {
		conn.Close()
		t.Error("the client reaches the server without its waypoint")
	}
	m.client.node.waitLog("connection failed", "waypoint")
	if got := m.client.node.metric("istio_tcp_connections_failed_total", `reporter="source"`, `response_flags="CONNECT"`, `source_workload="client"`); got != 1 {
		t.Errorf("%v refusals counted, want 1", got)
	}
}

func TestPodThatTheControlPlaneDoesNotKnow(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.up(m.client)
	capturePod(t, m.server.Namespace)
	m.server.node = startNode(t, m.config(m.server))
	m.server.node.enrol(m.server)
	m.server.node.waitReady()
	m.server.serve(t, 8080)
	m.client.serve(t, 8080)
	start := time.Now()
	status, err := m.ask(m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "outside"))), m.server, "10.91.0.2:8080")
	if err != nil || status != 503 || time.Since(start) < 4*time.Second {
		t.Errorf("after %s answered %d, %v; want 503 after 5 s of waiting", time.Since(start), status, err)
	}
	if got := m.server.node.metric("istio_tcp_connections_failed_total", `reporter="destination"`, `response_flags="CONNECT"`); got != 1 {
		t.Errorf("%v refusals counted, want 1", got)
	}
	// What it sends is safe: the certificate authority vouches for it.
	_, conn, err := m.server.call(netip.AddrPortFrom(m.client.v4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	m.client.node.waitLog("connection complete", `src.identity="spiffe://cluster.local/ns/demo/sa/server"`)
}

func TestArrivalsWaitForTheControlPlane(t *testing.T) {
	m := newMesh(t)
	capturePod(t, m.server.Namespace)
	m.server.node = startNode(t, m.config(m.server))
	m.server.node.enrol(m.server)
	m.server.node.waitReady()
	m.server.serve(t, 8080)
	answered := make(chan error, 1)
	go func() {
		_, conn, err := m.outside.call(netip.AddrPortFrom(m.server.v4, 8080))
		if err == nil {
			conn.Close()
		}
		answered <- err
	}()
	m.server.node.eventually("accept the connection", func() bool { return established(t, m.server) })
	m.describe(m.server, nil)
	if err := <-answered; err != nil {
		t.Errorf("the connection that waited failed: %v", err)
	}
}

// A proxy that takes its connections through ztunnel learns by a header who calls whom.
func TestApplicationTunnelIsToldWhoCalls(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	m.describe(m.server, func(w *workload.Workload) {
		w.CanonicalName = "sandwich"
		w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	})
	m.server.node.waitWorkload("sandwich")
	l, err := m.server.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:15088")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "outside")))
	conn, err := m.connect(a, m.server, "10.96.0.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("payload")); err != nil {
		t.Fatal(err)
	}
	app, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	app.SetDeadline(time.Now().Add(patience))
	const id = "spiffe://cluster.local/ns/demo/sa/outside"
	got := make([]byte, 16+12+3+len(id)+len("payload"))
	if _, err := io.ReadFull(app, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[16:24], []byte{10, 91, 0, 3, 10, 96, 0, 7}) || !bytes.HasSuffix(got, []byte(id+"payload")) {
		t.Errorf("the proxy reads %q", got)
	}
	if from := socket.Unmap(app.RemoteAddr()).Addr(); !from.IsLoopback() {
		t.Errorf("the proxy is called from %s, want loopback", from)
	}
}
