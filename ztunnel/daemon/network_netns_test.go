package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// upIn is up for pods in networks.
func (m *mesh) upIn(networks map[*testPod]string, change func(*testPod, *workload.Workload)) {
	m.t.Helper()
	for p, network := range networks {
		m.describe(p, func(w *workload.Workload) { w.Network = network; change(p, w) })
		capturePod(m.t, p.Namespace)
		cfg := m.config(p)
		cfg.Network = network
		p.node = startNode(m.t, cfg)
		p.node.enrol(p)
	}
	for p := range networks {
		p.node.waitReady()
	}
}

// forward makes the pod pass on what reaches a port, as the gateway of a network does with the tunnel in the tunnel.
func (p *testPod) forward(t *testing.T, port uint16, to netip.AddrPort) {
	t.Helper()
	l, err := p.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	pass := func(from, to *net.TCPConn) {
		_, _ = io.Copy(to, from)
		_ = to.CloseWrite()
	}
	group.Go(func() {
		for {
			in, err := l.AcceptTCP()
			if err != nil {
				return
			}
			out, err := p.Dial(t.Context(), to, socket.DialConfig{Mark: socket.Mark})
			if err != nil {
				in.Close()
				continue
			}
			group.Go(func() {
				defer in.Close()
				defer out.Close()
				var back sync.WaitGroup
				back.Go(func() { pass(out, in) })
				pass(in, out)
				back.Wait()
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
}

// shownConnection is a connection on the page that istioctl reads.
type shownConnection struct{ OriginalDst, ActualDst, Protocol string }

func (n *node) shownOutbound(pod string) []shownConnection {
	n.t.Helper()
	_, text := n.get("administration", "/config_dump")
	var page struct {
		WorkloadState map[string]struct {
			Connections struct{ Outbound []shownConnection }
		}
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		n.t.Fatal(err)
	}
	return page.WorkloadState[pod+"-uid"].Connections.Outbound
}

// acrossNetworks has the client in one network, and a service's only endpoint in another one behind a gateway.
func acrossNetworks(t *testing.T, san string, way *workload.GatewayAddress) *mesh {
	t.Helper()
	m := newMesh(t)
	m.acrossNetworks(san, way, m.server)
	return m
}

// acrossNetworks has the gateway lead to the tunnels of the pod, which is the endpoint unless the gateway lies.
func (m *mesh) acrossNetworks(san string, way *workload.GatewayAddress, behind *testPod) {
	m.t.Helper()
	m.istiod.Set(
		webAt(func(s *workload.Service) {
			s.Addresses[0].Network = "east"
			s.Ports = append(s.Ports, &workload.Port{ServicePort: 81, TargetPort: 7070}, &workload.Port{ServicePort: 82, TargetPort: 9999})
			s.SubjectAltNames = []string{"spiffe://cluster.local/ns/demo/sa/" + san}
		}),
		&workload.Service{Name: "gateway", Namespace: "demo", Hostname: "gateway.west", Ports: []*workload.Port{{ServicePort: 15009, TargetPort: 15008}}})
	m.upIn(map[*testPod]string{m.client: "east", m.server: "west", m.outside: "west"}, func(p *testPod, w *workload.Workload) {
		switch p {
		case m.server:
			endpointOf(webHost)(w)
			w.NetworkGateway = way
		case m.outside:
			endpointOf("gateway.west")(w)
		}
	})
	m.sync()
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	for _, port := range []uint16{8080, 7070, 9999} { // the targets of the service's ports
		m.outside.forward(m.t, port, netip.AddrPortFrom(behind.v4, 15008))
	}
	m.server.serve(m.t, 8080)
}

var gatewayByAddress = &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Address{
	Address: &workload.NetworkAddress{Network: "west", Address: []byte{10, 91, 0, 3}}}}

// A service with endpoints in another network is reached by a tunnel to that network's gateway, and in it another one, which
// only the endpoint can open.
func TestAnotherNetworkIsReachedThroughItsGateway(t *testing.T) {
	for name, way := range map[string]*workload.GatewayAddress{
		"by address": gatewayByAddress,
		"by hostname, with a mapped port": {HboneMtlsPort: 15009, Destination: &workload.GatewayAddress_Hostname{
			Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: "gateway.west"}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := acrossNetworks(t, "server", way)
			for range 3 {
				seen, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte("last\n")); err != nil {
					t.Fatal(err)
				}
				if shown := m.client.node.shownOutbound("client"); !slices.ContainsFunc(shown, func(c shownConnection) bool {
					return c == shownConnection{OriginalDst: "10.96.0.1:80", ActualDst: "10.91.0.3:15008", Protocol: "DOUBLEHBONE"}
				}) {
					t.Errorf("the page of connections shows %+v", shown)
				}
				conn.CloseWrite()
				if line, err := readLine(conn); err != nil || line != "last" {
					t.Errorf("after the half close: %q, %v", line, err)
				}
				conn.Close()
				if seen != m.outside.v4.String() {
					t.Errorf("the application sees %s, want the gateway %s", seen, m.outside.v4)
				}
			}
			const authority, caller = "dst.hbone_addr=" + webHost + ":80", `src.identity="spiffe://cluster.local/ns/demo/sa/client"`
			m.client.node.waitLog("connection complete", "dst.addr=10.91.0.3:15008", authority, `dst.service="`+webHost+`"`)
			m.client.node.waitLog("connection complete", authority, `dst.namespace="demo"`, `dst.identity="spiffe://cluster.local/ns/demo/sa/server"`)
			m.client.node.eventually("count the server by what it says of itself", func() bool {
				return m.client.node.metric("istio_tcp_connections_closed_total", `reporter="source"`, `destination_workload="server"`, `response_flags="-"`) == 3
			})
			m.outside.node.waitLog("connection complete", `direction="inbound"`, caller, authority)
			m.server.node.waitLog("connection complete", `direction="inbound"`, caller, authority)
			m.client.node.eventually("count the endpoint by what it says of itself and proves", func() bool {
				return m.client.node.metric("istio_tcp_connections_closed_total", `reporter="source"`, `destination_workload="server"`, `destination_canonical_service="server"`,
					`destination_principal="spiffe://cluster.local/ns/demo/sa/server"`, `destination_service="`+webHost+`"`, `response_flags="-"`) == 3
			})
			for _, p := range []*testPod{m.client, m.outside, m.server} {
				p.node.waitAccounts() // the inner tunnel has gone with its connection, and the outer one's stream with it
			}
			m.server.node.eventually("count the client by what it says of itself", func() bool {
				return m.server.node.metric("istio_tcp_connections_closed_total", `reporter="destination"`, `source_workload="client"`, `response_flags="-"`) == 3
			})
		})
	}
}

// The endpoint behind the gateway must be the service's: the gateway itself could read everything otherwise.
func TestAnotherNetworksGatewayCannotPoseAsTheEndpoint(t *testing.T) {
	for name, test := range map[string]struct {
		san    string
		behind func(*mesh) *testPod
	}{
		"an endpoint that the service doesn't name": {"somebody-else", func(m *mesh) *testPod { return m.server }},
		"the gateway itself":                        {"server", func(m *mesh) *testPod { return m.outside }},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			m.acrossNetworks(test.san, gatewayByAddress, test.behind(m))
			if _, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80")); err == nil {
				conn.Close()
				t.Fatal("somebody answers whom the service doesn't name")
			}
			m.client.node.eventually("count the failure", func() bool {
				return m.client.node.metric("istio_tcp_connections_failed_total", `reporter="source"`, `response_flags="TLS_FAILURE"`) == 1
			})
		})
	}
}

// A tunnel in a tunnel carries what a single one does: much at once without holding others up, and the end of either side as it was.
func TestConnectionsToAnotherNetworkAreLikeOthers(t *testing.T) {
	m := acrossNetworks(t, "server", gatewayByAddress)
	to := netip.MustParseAddrPort("10.96.0.1:80")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, conn, err := m.client.call(to)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			echoMuch(t, conn, 2<<20)
		})
	}
	group.Wait()
	t.Run("resets", func(t *testing.T) {
		l, err := m.server.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:7070")})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		near, far := accepted(t, m.client, l, netip.MustParseAddrPort("10.96.0.1:81"))
		abort(far)
		cut(t, near)
		near, far = accepted(t, m.client, l, netip.MustParseAddrPort("10.96.0.1:81"))
		abort(near)
		cut(t, far)
		if _, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:82")); !errors.Is(err, syscall.ECONNRESET) {
			if err == nil {
				conn.Close()
			}
			t.Errorf("where nobody listens the application sees %v, want a reset", err)
		}
	})
	t.Run("the client's pod goes", func(t *testing.T) {
		conn := mustCall(t, m.client, to)
		m.client.node.agent.del(m.client)
		cut(t, conn)
		for _, p := range []*testPod{m.client, m.outside, m.server} {
			p.node.waitAccounts()
		}
	})
}

// echoMuch sends content to an application that echoes, and checks what comes back.
func echoMuch(t *testing.T, conn *net.TCPConn, size int) {
	t.Helper()
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	conn.SetDeadline(time.Now().Add(2 * patience))
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := conn.Write(content); err != nil {
			t.Error(err)
		}
		_ = conn.CloseWrite()
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes came back, %v", len(got), size, err)
	}
	writer.Wait()
}
