package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

func TestPodsTalkThroughATunnel(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	for _, family := range []struct{ to, from netip.Addr }{{m.server.v4, m.client.v4}, {m.server.v6, m.client.v6}} {
		seen, conn, err := m.client.call(netip.AddrPortFrom(family.to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if seen != family.from.String() {
			t.Errorf("the application sees %s, want the client %s", seen, family.from)
		}
		authority := netip.AddrPortFrom(family.to, 8080).String()
		m.server.node.waitLog("connection complete", "dst.hbone_addr="+authority, `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/client"`, "bytes_recv=5")
		m.client.node.waitLog("connection complete", "dst.hbone_addr="+authority, `direction="outbound"`, `dst.identity="spiffe://cluster.local/ns/demo/sa/server"`, "bytes_sent=5")
	}
	for _, n := range []struct {
		node     *node
		reporter string
	}{{m.client.node, "source"}, {m.server.node, "destination"}} {
		labels := []string{`reporter="` + n.reporter + `"`, `source_workload="client"`, `destination_workload="server"`, `connection_security_policy="mutual_tls"`, `response_flags="-"`}
		for name, want := range map[string]float64{"istio_tcp_connections_opened_total": 2, "istio_tcp_connections_closed_total": 2, "istio_tcp_received_bytes_total": 10,
			"istio_tcp_sent_bytes_total": float64(len("10.91.0.1\nping\n" + "fd91::1\nping\n"))} {
			if got := n.node.metric(name, labels...); got != want {
				t.Errorf("%s of %s is %v, want %v", name, n.reporter, got, want)
			}
		}
	}
}

func TestServiceAddressLeadsToAnEndpoint(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(&workload.Service{
		Name: "web", Namespace: "demo", Hostname: "web.demo.svc.cluster.local",
		Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 1}}}, Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
	})
	m.up(m.client, m.server)
	m.describe(m.server, func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{"demo/web.demo.svc.cluster.local": {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}}
	})
	m.sync()
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	m.server.serve(t, 8080)
	_, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	m.client.node.waitLog("connection complete", "dst.hbone_addr=10.91.0.2:8080", `dst.service="web.demo.svc.cluster.local"`)
	m.server.node.waitLog("connection complete", `dst.service="web.demo.svc.cluster.local"`) // told by the client
}

func TestPlainTextArrives(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	m.server.serve(t, 8080)
	for _, family := range []struct{ to, from netip.Addr }{{m.server.v4, m.outside.v4}, {m.server.v6, m.outside.v6}} {
		for range 20 { // ports of the application's side and the client's must not clash
			seen, conn, err := m.outside.call(netip.AddrPortFrom(family.to, 8080))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if seen != family.from.String() {
				t.Errorf("the application sees %s, want the client %s", seen, family.from)
			}
		}
	}
	open := mustCall(t, m.outside, netip.AddrPortFrom(m.server.v4, 8080))
	sockets := func() float64 { return m.server.node.metric("istio_tcp_sockets_open", `reporter="destination"`) }
	m.server.node.eventually("count the open socket alone", func() bool { return sockets() == 1 })
	open.Close()
	m.server.node.eventually("count the closed socket", func() bool { return sockets() == 0 })
	m.server.node.waitLog("connection complete", "src.addr=10.91.0.3:", "dst.addr=10.91.0.2:8080", `direction="inbound"`)
	if got := m.server.node.metric("istio_tcp_connections_opened_total", `reporter="destination"`, `connection_security_policy="unknown"`, `source_workload="unknown"`); got != 41 {
		t.Errorf("%v plain connections counted, want 41", got)
	}
}

func TestUnknownDestinationsPassThrough(t *testing.T) {
	m := newMesh(t)
	m.up(m.client)
	m.outside.serve(t, 8080)
	for _, family := range []struct{ to, from netip.Addr }{{m.outside.v4, m.client.v4}, {m.outside.v6, m.client.v6}} {
		seen, conn, err := m.client.call(netip.AddrPortFrom(family.to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if seen != family.from.String() {
			t.Errorf("the destination sees %s, want the client %s", seen, family.from)
		}
	}
	m.client.node.waitLog("connection complete", "dst.addr=10.91.0.3:8080", `direction="outbound"`)
}

func TestSourceAddressIsKeptOnlyIfWished(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"ENABLE_ORIG_SRC=false"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	for _, from := range []*testPod{m.client, m.outside} {
		mustSee(t, from, m.server.v4, m.server.v4)
		mustSee(t, from, m.server.v6, m.server.v6)
	}
}

func TestWithoutIPv6EverythingElseWorks(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"IPV6_ENABLED=false", "ISTIO_META_DNS_CAPTURE=true"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	mustSee(t, m.client, m.server.v4, m.client.v4)
	mustSee(t, m.outside, m.server.v4, m.outside.v4)
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v6, 8080)); err == nil {
		conn.Close()
		t.Error("a captured connection by IPv6 goes past ztunnel")
	}
}

func TestHalfClosedConnectionsStayHalfOpen(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	_, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("last\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if line, err := readLine(conn); err != nil || line != "last" {
		t.Errorf("after the half close: %q, %v", line, err)
	}
}

func TestConfigDump(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(&workload.Service{
		Name: "web", Namespace: "demo", Hostname: "web.demo", Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 1}}},
		Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
	}, denyAll("block", "nobody"))
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	_, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	status, text := m.server.node.get("administration", "/config_dump")
	var got struct {
		Workloads []struct {
			UID, Protocol, Status string
			WorkloadIPs           []string `json:"workloadIps"`
		}
		Services []struct {
			Hostname string
			VIPs     []string
			Ports    map[string]int
		}
		Policies []struct {
			Name, Action, Scope string
			Rules               [][][]map[string]any
		}
		Certificates []struct {
			Identity, State string
			CertChain       []struct{ SerialNumber, ValidFrom, ExpirationTime, PEM string }
			RootCerts       []any
		}
		WorkloadState map[string]struct {
			State       string
			Info        struct{ Name, Namespace, ServiceAccount string }
			Connections struct {
				Inbound, Outbound []struct{ Src, ActualDst, Protocol string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != 200 {
		t.Fatalf("%d, %v:\n%s", status, err, text)
	}
	if len(got.Workloads) != 2 || got.Workloads[1].UID != "Kubernetes//Pod/demo/server" || got.Workloads[1].Protocol != "HBONE" ||
		got.Workloads[1].Status != "Healthy" || got.Workloads[1].WorkloadIPs[0] != "10.91.0.2" {
		t.Errorf("workloads %+v", got.Workloads)
	}
	if len(got.Services) != 1 || got.Services[0].VIPs[0] != "/10.96.0.1" || got.Services[0].Ports["80"] != 8080 {
		t.Errorf("services %+v", got.Services)
	}
	if len(got.Policies) != 1 || got.Policies[0].Action != "Deny" || got.Policies[0].Scope != "Namespace" || len(got.Policies[0].Rules) != 1 {
		t.Errorf("policies %+v", got.Policies)
	}
	if len(got.Certificates) != 1 || got.Certificates[0].Identity != "spiffe://cluster.local/ns/demo/sa/server" || got.Certificates[0].State != "Available" ||
		len(got.Certificates[0].CertChain) != 1 || len(got.Certificates[0].RootCerts) != 1 || !strings.HasSuffix(got.Certificates[0].CertChain[0].ValidFrom, "Z") {
		t.Errorf("certificates %+v", got.Certificates)
	}
	pod := got.WorkloadState["server-uid"]
	if pod.State != "Up" || pod.Info.Name != "server" || len(pod.Connections.Inbound) != 1 || pod.Connections.Inbound[0].Protocol != "HBONE" || pod.Connections.Inbound[0].ActualDst != "10.91.0.2:8080" {
		t.Errorf("pod %+v", pod)
	}
	if strings.Contains(text, "PRIVATE KEY") {
		t.Error("the dump shows a private key")
	}
}

// Meshed clients can ask ztunnel itself, too: its pod isn't captured but takes tunnels.
func TestOwnPodTakesTunnels(t *testing.T) {
	m := newMesh(t)
	workers, err := worker.Start(2)
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close(workers)
	z := newZtunnel(drain.New(time.Second), m.config(m.server), m.ca, workers, slog.New(slog.DiscardHandler))
	update, err := state.Read([]byte("workloads: [{uid: own, name: server, namespace: demo, serviceAccount: server, workloadIps: [10.91.0.2], protocol: HBONE, node: server-node}]"))
	if err == nil {
		err = z.store.Apply(update)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- z.certs.Run(ctx) }()
	netns, err := socket.OpenNetns(m.server.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := z.pods.add(enroll.Pod{UID: "own", Name: "server", Namespace: "demo", ServiceAccount: "server", Netns: netns}, true); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		z.pods.drain(ctx)
		<-ended
	}()
	m.server.serve(t, 15020)
	a := m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "prometheus")))
	conn, err := m.connect(a, m.server, "10.91.0.2:15020")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if seen, err := readLine(conn); err != nil || seen != m.server.v4.String() {
		t.Errorf("the server sees %q, %v; want itself, since answers to others would leave the pod", seen, err)
	}
	for _, port := range []uint16{15001, 15006} {
		if conn, err := m.outside.Dial(t.Context(), netip.AddrPortFrom(m.server.v4, port), socket.DialConfig{}); err == nil {
			conn.Close()
			t.Errorf("port %d is open although nothing is captured", port)
		}
	}
}

// A pod that calls its own service may reach itself; then there is no other address to appear from.
func TestPodReachesItselfThroughItsService(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(&workload.Service{
		Name: "web", Namespace: "demo", Hostname: "web.demo", Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 1}}},
		Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
	})
	m.up(m.server)
	m.describe(m.server, func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{"demo/web.demo": {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}}
	})
	m.sync()
	m.server.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	m.server.serve(t, 8080)
	seen, conn, err := m.server.call(netip.MustParseAddrPort("10.96.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if seen != m.server.v4.String() {
		t.Errorf("the application sees %s", seen)
	}
	m.server.node.waitLog("connection complete", `direction="inbound"`, "dst.hbone_addr=10.91.0.2:8080")
}

func TestWithoutCertificatesOnlyPlainTextFlows(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	m.describe(m.client, nil)
	capturePod(t, m.client.Namespace)
	cfg := m.config(m.client)
	cfg.CA.Address = ""
	m.client.node = startNode(t, cfg)
	m.client.node.enrol(m.client)
	m.client.node.waitReady()
	m.client.node.waitWorkload("Kubernetes//Pod/demo/server")
	m.server.serve(t, 8080)
	m.outside.serve(t, 8080)
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); err == nil {
		conn.Close()
		t.Error("a meshed destination is reached without a certificate")
	}
	m.client.node.waitLog("connection complete", "set CA_ADDRESS")
	if got := m.client.node.metric("istio_tcp_connections_failed_total", `response_flags="IDENTITY_ERROR"`); got != 1 {
		t.Errorf("%v failures counted, want 1", got)
	}
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.outside.v4, 8080)); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
}
