package daemon

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const webHost = "web.demo.svc.cluster.local"

// webAt is a service at 10.96.0.1, port 80.
func webAt(change func(*workload.Service)) *workload.Service {
	s := &workload.Service{
		Name: "web", Namespace: "demo", Hostname: webHost,
		Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 1}}}, Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
	}
	if change != nil {
		change(s)
	}
	return s
}

// endpointOf makes a workload an endpoint of services.
func endpointOf(hosts ...string) func(*workload.Workload) {
	return func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{}
		for _, host := range hosts {
			w.Services["demo/"+host] = &workload.PortList{}
		}
	}
}

// A service's waypoint gets the connection as it was dialled, and a waypoint behind ztunnel is told who calls whom.
func TestWaypointIsToldWhoCallsWhom(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(
		webAt(func(s *workload.Service) {
			s.Waypoint = &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{
				Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: "waypoint.demo"}}}
		}),
		&workload.Service{Name: "waypoint", Namespace: "demo", Hostname: "waypoint.demo", Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15008}}})
	m.up(m.client, m.server)
	m.describe(m.server, func(w *workload.Workload) {
		endpointOf("waypoint.demo")(w)
		w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	})
	m.sync()
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	l, err := m.server.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:15088")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := m.client.Dial(t.Context(), netip.MustParseAddrPort("10.96.0.1:80"), socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	l.SetDeadline(time.Now().Add(patience))
	waypoint, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer waypoint.Close()
	waypoint.SetDeadline(time.Now().Add(patience))
	const identity = "spiffe://cluster.local/ns/demo/sa/client"
	got := make([]byte, 16+12+3+len(identity)+len("hello"))
	if _, err := io.ReadFull(waypoint, got); err != nil {
		t.Fatal(err)
	}
	port := got[24:26] // the client's: that of its node's tunnel
	want := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00"), byte(12+3+len(identity)), 10, 91, 0, 1, 10, 96, 0, 1, port[0], port[1], 0, 80, 0xd0, 0, byte(len(identity)))
	if want = append(append(want, identity...), "hello"...); !bytes.Equal(got, want) {
		t.Errorf("the waypoint reads\n%q, want\n%q", got, want)
	}
	if from := waypoint.RemoteAddr().(*net.TCPAddr).IP; !from.IsLoopback() {
		t.Errorf("the waypoint is called from %s, want loopback", from)
	}
	waypoint.Close()
	io.Copy(io.Discard, conn)
	conn.Close()
	m.client.node.waitLog("connection complete", "dst.addr=10.91.0.2:15008", "dst.hbone_addr=10.96.0.1:80", `dst.service="`+webHost+`"`)
	m.server.node.waitLog("connection complete", `direction="inbound"`, "dst.hbone_addr=10.96.0.1:80", `src.identity="`+identity+`"`)
}

// Of two endpoints one refuses; nobody notices.
func TestAnotherEndpointIsTriedWhenOneRefuses(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(webAt(nil))
	m.up(m.client, m.server)
	m.describe(m.server, endpointOf(webHost))
	m.describe(m.outside, func(w *workload.Workload) { endpointOf(webHost)(w); w.TunnelProtocol = workload.TunnelProtocol_NONE })
	m.sync()
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	m.server.serve(t, 8080)
	const calls = 30
	for range calls {
		_, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80"))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	closed := func(labels ...string) float64 {
		return m.client.node.metric("istio_tcp_connections_closed_total", append(labels, `reporter="source"`)...)
	}
	m.client.node.eventually("count all connections", func() bool { return closed(`destination_workload="server"`, `response_flags="-"`) == calls })
	if all := closed(); all != calls {
		t.Errorf("%v connections are counted, want each of the %d once", all, calls)
	}
}

// An endpoint whose host is gone costs a connection a second or two, not the whole time of a dial, and then nobody for a while.
func TestAnotherEndpointIsTriedWhenOneIsSilent(t *testing.T) {
	for name, protocol := range map[string]workload.TunnelProtocol{"a tunnel": workload.TunnelProtocol_HBONE, "plain text": workload.TunnelProtocol_NONE} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			m.istiod.Set(webAt(nil))
			m.up(m.client, m.server)
			m.describe(m.server, endpointOf(webHost))
			m.describe(m.outside, func(w *workload.Workload) { endpointOf(webHost)(w); w.TunnelProtocol = protocol })
			m.sync()
			drop(t, m.outside, 15008)
			drop(t, m.outside, 8080)
			m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
			m.server.serve(t, 8080)
			met := 0
			for range 12 {
				began := time.Now()
				_, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80"))
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				switch took := time.Since(began); {
				case took > 5*time.Second:
					t.Errorf("a connection took %s", took)
				case took > time.Second:
					met++
				}
			}
			if met > 2 {
				t.Errorf("%d of 12 connections met the silent endpoint, want the first, if any", met)
			}
		})
	}
}

// The only endpoint, or the last, has all the time of a dial.
func TestTheLastEndpointIsWaitedFor(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.istiod.Set(webAt(nil))
	m.up(m.client)
	m.describe(m.outside, endpointOf(webHost))
	m.sync()
	drop(t, m.outside, 15008)
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	began := time.Now()
	if _, conn, err := m.client.callFor(netip.MustParseAddrPort("10.96.0.1:80"), 2*patience); err == nil {
		conn.Close()
		t.Fatal("somebody answers")
	}
	if took := time.Since(began); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("it is given up after %s, want 10 s", took)
	}
}

// When every endpoint refuses, the application sees it, and one failure is counted.
func TestApplicationSeesWhenAllEndpointsRefuse(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(webAt(nil))
	m.up(m.client, m.server)
	m.describe(m.server, endpointOf(webHost))
	m.describe(m.outside, func(w *workload.Workload) { endpointOf(webHost)(w); w.TunnelProtocol = workload.TunnelProtocol_NONE })
	m.sync()
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"))
	if _, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80")); err == nil {
		conn.Close()
		t.Fatal("somebody answers")
	}
	m.client.node.eventually("count the failure", func() bool {
		return m.client.node.metric("istio_tcp_connections_failed_total", `reporter="source"`) == 1
	})
	if got := m.client.node.metric("istio_tcp_connections_opened_total", `reporter="source"`); got != 1 {
		t.Errorf("%v connections are counted, want 1", got)
	}
}

// An ingress gateway's pod takes what arrives by itself, and sends through the mesh.
func TestPodWithoutInboundCaptureSendsThroughTheMesh(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	err := m.client.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.FlushChain(&nftables.Chain{Name: "in", Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "capture"}})
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	m.client.serve(t, 8080)
	m.server.serve(t, 8080)
	if _, conn, err := m.outside.call(netip.AddrPortFrom(m.client.v4, 8080)); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}
	if _, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080)); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}
	m.client.node.waitLog("connection complete", "dst.hbone_addr=10.91.0.2:8080")
	if got := m.client.node.metric("istio_tcp_connections_opened_total", `reporter="destination"`); got != 0 {
		t.Errorf("%v arrivals are counted, want none", got)
	}
}
