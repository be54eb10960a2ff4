package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// waypoint is a proxy that takes tunnels by itself, made of Go's own HTTP/2, and goes on to the server by a tunnel.
type waypoint struct {
	asked chan string // client's identity and authority of each request
}

// passOn makes the pod a waypoint at a port, whose connections all go to the server's application.
func (m *mesh) passOn(p *testPod, port uint16) *waypoint {
	m.t.Helper()
	l, err := p.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		m.t.Fatal(err)
	}
	way := &waypoint{asked: make(chan string, 100)}
	credential := m.ca.Credential(m.ca.Identity("demo", "waypoint"))
	onward := m.asker(p.Netns, credential)
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	server := &http.Server{TLSConfig: mtls.Policy{}.ServerConfig(credential), Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		way.asked <- r.TLS.PeerCertificates[0].URIs[0].String() + " " + r.Method + " " + r.Host
		m.carryOn(onward, w, r)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(l, "", "") })
	m.t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	return way
}

// next waits for a request.
func (w *waypoint) next(t *testing.T) string {
	t.Helper()
	select {
	case asked := <-w.asked:
		return asked
	case <-time.After(patience):
		return "nothing"
	}
}

// carryOn joins a request with a tunnel to the server.
func (m *mesh) carryOn(onward *byhand.Client, w http.ResponseWriter, r *http.Request) {
	conn, err := m.connect(onward, m.server, netip.AddrPortFrom(m.server.v4, 8080).String())
	if err != nil {
		m.t.Errorf("the waypoint can't go on: %v", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer conn.Close()
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, r.Body)
		_ = conn.(*net.UnixConn).CloseWrite()
	})
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			break
		}
		_, _ = w.Write(buffer[:n])
		_ = control.Flush()
	}
	back.Wait()
}

// onlyFrom lets nobody but a service account into the server.
func onlyFrom(serviceAccount string) *security.Authorization {
	p := denyAll("only-"+serviceAccount, serviceAccount)
	p.Action, p.Scope = security.Action_ALLOW, security.Scope_WORKLOAD_SELECTOR
	return p
}

func gatewayByHost(host string, port uint32) *workload.GatewayAddress {
	return &workload.GatewayAddress{HboneMtlsPort: port, Destination: &workload.GatewayAddress_Hostname{
		Hostname: &workload.NamespacedHostname{Namespace: "demo", Hostname: host}}}
}

func gatewayAt(addr netip.Addr, port uint32) *workload.GatewayAddress {
	return &workload.GatewayAddress{HboneMtlsPort: port, Destination: &workload.GatewayAddress_Address{
		Address: &workload.NetworkAddress{Address: addr.AsSlice()}}}
}

var serviceV4, serviceV6 = netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")

// dualWeb is a service of both families. Its addresses are behind the client's link.
func dualWeb(change func(*workload.Service)) *workload.Service {
	return webAt(func(s *workload.Service) {
		s.Addresses = append(s.Addresses, &workload.NetworkAddress{Address: serviceV6.AsSlice()})
		if change != nil {
			change(s)
		}
	})
}

func (m *mesh) routeServices() {
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/64"))
}

// A waypoint is asked for exactly what the client dialled, however the control plane names the waypoint. Nothing else gets
// into the server.
func TestWaypointGetsWhatIsForItsServicesAndWorkloads(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(onlyFrom("waypoint"),
		&workload.Service{Name: "waypoint", Namespace: "demo", Hostname: "waypoint.demo", Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15018}},
			Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 9}}, {Address: netip.MustParseAddr("fd96::9").AsSlice()}}})
	m.up(m.client, m.server)
	m.describe(m.outside, func(w *workload.Workload) {
		endpointOf("waypoint.demo")(w)
		w.ServiceAccount, w.Hostname = "waypoint", "lone.example"
	})
	m.routeServices()
	m.server.serve(t, 8080)
	way := m.passOn(m.outside, 15018)
	for _, by := range []struct {
		name   string
		v4, v6 *workload.GatewayAddress // the same, but where it is an address
	}{
		{"address", gatewayAt(m.outside.v4, 15018), gatewayAt(m.outside.v6, 15018)},
		{"the address of its service", gatewayAt(netip.MustParseAddr("10.96.0.9"), 15008), gatewayAt(netip.MustParseAddr("fd96::9"), 15008)},
		{"the hostname of its service, with a mapped port", gatewayByHost("waypoint.demo", 15008), gatewayByHost("waypoint.demo", 15008)},
		{"the hostname of its workload", gatewayByHost("lone.example", 15018), gatewayByHost("lone.example", 15018)},
	} {
		for _, test := range []struct {
			of string
			to netip.AddrPort
		}{
			{"workload", netip.AddrPortFrom(m.server.v4, 9999)}, {"workload", netip.AddrPortFrom(m.server.v6, 9999)},
			{"service", netip.AddrPortFrom(serviceV4, 80)}, {"service", netip.AddrPortFrom(serviceV6, 80)},
		} {
			t.Run(fmt.Sprintf("of a %s at %s by %s", test.of, test.to.Addr(), by.name), func(t *testing.T) {
				gateway := by.v4
				if test.to.Addr().Is6() {
					gateway = by.v6
				}
				m.istiod.Set(dualWeb(func(s *workload.Service) {
					if test.of == "service" {
						s.Waypoint = gateway
					}
				}))
				m.describe(m.server, func(w *workload.Workload) {
					endpointOf(webHost)(w)
					w.AuthorizationPolicies = []string{"demo/only-waypoint"}
					if test.of == "workload" {
						w.Waypoint = gateway
					}
				})
				m.sync()
				_, conn, err := m.client.call(test.to)
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				const want = "spiffe://cluster.local/ns/demo/sa/client CONNECT "
				if asked := way.next(t); asked != want+test.to.String() {
					t.Errorf("the waypoint was asked %q, want %q", asked, want+test.to.String())
				}
			})
		}
	}
	m.server.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/waypoint"`)
	if _, conn, err := m.outside.call(netip.AddrPortFrom(m.server.v4, 8080)); err == nil {
		conn.Close()
		t.Error("plain text gets past the waypoint")
	}
}

// A sandwiched waypoint has ztunnel before and behind it: what it sends goes straight on to the workload.
func TestSandwichedWaypoint(t *testing.T) {
	for _, test := range []struct {
		name     string
		protocol workload.ApplicationTunnel_Protocol
		listen   string
	}{
		{"told by a PROXY header", workload.ApplicationTunnel_PROXY, "127.0.0.1:15088"},
		{"plain", workload.ApplicationTunnel_NONE, "10.91.0.3:15088"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMesh(t)
			m.istiod.Set(onlyFrom("outside"), dualWeb(func(s *workload.Service) { s.Waypoint = gatewayByHost("waypoint.demo", 15008) }),
				&workload.Service{Name: "waypoint", Namespace: "demo", Hostname: "waypoint.demo", Ports: []*workload.Port{{ServicePort: 80, TargetPort: 80}}})
			m.up(m.client, m.server, m.outside)
			m.describe(m.server, func(w *workload.Workload) {
				endpointOf(webHost)(w)
				w.Waypoint, w.AuthorizationPolicies = gatewayByHost("waypoint.demo", 15008), []string{"demo/only-outside"}
			})
			m.describe(m.outside, func(w *workload.Workload) {
				endpointOf("waypoint.demo")(w)
				w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: test.protocol, Port: 15088}
			})
			m.sync()
			m.routeServices()
			m.server.serve(t, 8080)
			headers := m.sandwich(m.outside, netip.MustParseAddrPort(test.listen), test.protocol == workload.ApplicationTunnel_PROXY)
			for _, to := range []netip.AddrPort{netip.AddrPortFrom(serviceV4, 80), netip.AddrPortFrom(m.server.v4, 8080)} {
				seen, conn, err := m.client.call(to)
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				if seen != m.outside.v4.String() {
					t.Errorf("the application sees %s, want the waypoint", seen)
				}
				want := "plain"
				if test.protocol == workload.ApplicationTunnel_PROXY {
					want = "10.91.0.1 to " + to.String() + " spiffe://cluster.local/ns/demo/sa/client"
				}
				if got := <-headers; got != want {
					t.Errorf("the waypoint is told %q, want %q", got, want)
				}
			}
			m.outside.node.waitLog("connection complete", `direction="inbound"`, "dst.hbone_addr=10.96.0.1:80", `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
			m.outside.node.waitLog("connection complete", `direction="outbound"`, "dst.hbone_addr=10.91.0.2:8080", `dst.identity="spiffe://cluster.local/ns/demo/sa/server"`)
			m.server.node.waitLog("connection complete", `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/demo/sa/outside"`)
		})
	}
}

// sandwich makes an application of the pod pass everything on to the server's application. It tells what headers said.
func (m *mesh) sandwich(p *testPod, at netip.AddrPort, headed bool) <-chan string {
	m.t.Helper()
	l, err := p.Listen(socket.ListenConfig{Addr: at})
	if err != nil {
		m.t.Fatal(err)
	}
	said := make(chan string, 10)
	var group sync.WaitGroup
	m.t.Cleanup(func() { l.Close(); group.Wait() })
	group.Go(func() {
		for {
			in, err := l.AcceptTCP()
			if err != nil {
				return
			}
			group.Go(func() { m.filling(p, in, headed, said) })
		}
	})
	return said
}

// filling is the sandwich's.
func (m *mesh) filling(p *testPod, in *net.TCPConn, headed bool, said chan<- string) {
	defer in.Close()
	_ = in.SetDeadline(time.Now().Add(patience))
	reader, told := bufio.NewReader(in), "plain"
	if headed {
		head := make([]byte, 16+12)
		_, err := io.ReadFull(reader, head)
		if err != nil || string(head[:14]) != "\r\n\r\n\x00\r\nQUIT\n\x21\x11" {
			m.t.Errorf("header %q, %v", head, err)
			return
		}
		tlv := make([]byte, int(head[14])<<8|int(head[15])-12)
		_, _ = io.ReadFull(reader, tlv)
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(head[20:24])), uint16(head[26])<<8|uint16(head[27]))
		told = fmt.Sprintf("%s to %s %s", netip.AddrFrom4([4]byte(head[16:20])), to, strings.TrimLeft(string(tlv[3:]), "\x00"))
	}
	said <- told
	out, err := p.Dial(m.t.Context(), netip.AddrPortFrom(m.server.v4, 8080), socket.DialConfig{})
	if err != nil {
		m.t.Errorf("the waypoint can't go on: %v", err)
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, reader)
		_ = out.CloseWrite()
	}()
	_, _ = io.Copy(in, out)
}
