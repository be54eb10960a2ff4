package daemon

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// upOnDemand starts ztunnels that ask only for what connections need.
func (m *mesh) upOnDemand(pods ...*testPod) {
	m.t.Helper()
	m.env = append(m.env, "XDS_ON_DEMAND=true")
	for _, p := range pods {
		capturePod(m.t, p.Namespace)
		p.node = startNode(m.t, m.config(p))
		p.node.enrol(p)
	}
	for _, p := range pods {
		p.node.waitReady()
	}
}

func (m *mesh) service(name, vip string) *workload.Service {
	return &workload.Service{
		Name: name, Namespace: "demo", Hostname: name + ".demo", Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
		Addresses: []*workload.NetworkAddress{{Address: netip.MustParseAddr(vip).AsSlice()}},
	}
}

func TestOnDemandConnectionsAskForWhatTheyNeed(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(m.service("web", "172.30.0.1"))
	m.describe(m.client, nil)
	m.describe(m.server, func(w *workload.Workload) {
		w.Services = map[string]*workload.PortList{"demo/web.demo": {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}}
	})
	m.client.Route(netip.MustParsePrefix("172.30.0.0/16"), m.server.v4)
	m.upOnDemand(m.client, m.server)
	m.server.serve(t, 8080)
	m.outside.serve(t, 8080)
	alive(t, mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080)))
	alive(t, mustCall(t, m.client, netip.MustParseAddrPort("172.30.0.1:80")))
	alive(t, mustCall(t, m.client, netip.AddrPortFrom(m.outside.v4, 8080)))
	m.client.node.waitLog("access", "connection opened", "outbound", m.server.v4.String()+":15008")
	var names []string
	for _, stream := range m.istiod.Opened() {
		names = append(names, stream.Names...)
	}
	for _, want := range []string{"Kubernetes//Pod/demo/client", "/" + m.server.v4.String(), "/172.30.0.1", "/" + m.outside.v4.String()} {
		if !slices.Contains(names, want) {
			t.Errorf("asked for %q, want %q among it", names, want)
		}
	}
}

// The address of a pod that went belongs to another one before long, of which nobody was told.
func TestOnDemandPodThatWentIsAskedForAnew(t *testing.T) {
	m := newMesh(t)
	m.describe(m.client, nil)
	m.describe(m.server, nil)
	m.upOnDemand(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	alive(t, mustCall(t, m.client, to))
	m.istiod.Remove("type.googleapis.com/istio.workload.Address", "Kubernetes//Pod/demo/server")
	m.sync()
	m.describe(m.server, nil)
	m.sync()
	alive(t, mustCall(t, m.client, to))
	if n := m.client.node.metric("istio_tcp_connections_opened_total", `reporter="source"`, `connection_security_policy="mutual_tls"`); n != 2 {
		t.Errorf("%v of two connections were tunnelled", n)
	}
}

func TestOnDemandWithoutControlPlaneRefusesInTime(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.describe(m.client, nil)
	m.describe(m.server, nil)
	m.upOnDemand(m.client, m.server)
	m.server.serve(t, 8080)
	known := netip.AddrPortFrom(m.server.v4, 8080)
	alive(t, mustCall(t, m.client, known))
	m.istiod.Stop()
	alive(t, mustCall(t, m.client, known))
	began := time.Now()
	if _, _, err := m.client.call(netip.AddrPortFrom(m.outside.v4, 8080)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a call to what isn't known: %v, want a reset", err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("refused after %s", took)
	}
	m.client.node.waitLog("the control plane has not said what /" + m.outside.v4.String() + " is")
	m.istiod.Restart()
	m.outside.serve(t, 8080)
	eventually(t, "reach what is known now", func() bool {
		_, conn, err := m.client.call(netip.AddrPortFrom(m.outside.v4, 8080))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// What a service leads to is asked for in turn: its waypoint and that one's instances, or its endpoint and the gateway of the
// network that the endpoint is in.
func TestOnDemandWaypointsAndGatewaysAreAskedFor(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(
		webAt(func(s *workload.Service) { s.Waypoint = gatewayByHost("waypoint.demo", 15008) }),
		&workload.Service{Name: "waypoint", Namespace: "demo", Hostname: "waypoint.demo", Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15018}}},
		&workload.Service{Name: "far", Namespace: "demo", Hostname: "far.demo", Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}},
			Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 2}}}, SubjectAltNames: []string{"spiffe://cluster.local/ns/demo/sa/server"}},
		&workload.Workload{Uid: "far", Name: "far", Namespace: "demo", Network: "west", TunnelProtocol: workload.TunnelProtocol_HBONE,
			NetworkGateway: gatewayAt(m.outside.v4, 15019), Services: map[string]*workload.PortList{"demo/far.demo": {}}})
	m.describe(m.client, nil)
	m.describe(m.server, endpointOf(webHost))
	m.describe(m.outside, func(w *workload.Workload) { endpointOf("waypoint.demo")(w); w.ServiceAccount = "waypoint" })
	m.routeServices()
	m.upOnDemand(m.client, m.server)
	m.server.serve(t, 8080)
	way := m.passOn(m.outside, 15018)
	alive(t, mustCall(t, m.client, netip.MustParseAddrPort("10.96.0.1:80")))
	if asked := way.next(t); asked != "spiffe://cluster.local/ns/demo/sa/client CONNECT 10.96.0.1:80" {
		t.Errorf("the waypoint was asked %q", asked)
	}
	gateway := m.passOn(m.outside, 15019)
	if _, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.2:80")); err == nil {
		conn.Close()
		t.Error("what is no endpoint behind the gateway is taken for one")
	}
	if asked := gateway.next(t); asked != "spiffe://cluster.local/ns/demo/sa/client CONNECT far.demo:80" {
		t.Errorf("the gateway was asked %q", asked)
	}
}

// What a tunnel asks of a pod may be known to nobody yet: a service of its own by name, or the service or the workload whose waypoint it is.
func TestOnDemandArrivalsAskForWhatTheyAreFor(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(webAt(nil), &workload.Service{Name: "guarded", Namespace: "demo", Hostname: "guarded.demo", Waypoint: gatewayAt(m.server.v4, 15008),
		Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 2}}}, Ports: []*workload.Port{{ServicePort: 8080, TargetPort: 8080}}})
	m.describe(m.client, func(w *workload.Workload) { w.Waypoint = gatewayAt(m.server.v4, 15008) })
	m.describe(m.server, nil)
	m.upOnDemand(m.server)
	m.server.serve(t, 8080)
	a := m.asker(m.outside.Netns, m.ca.Credential(m.ca.Identity("demo", "outside")))
	for _, test := range []struct {
		name, authority string
		want            int
	}{
		{"a service by its hostname", webHost + ":80", 200},
		{"the address of a service with this waypoint", "10.96.0.2:8080", 200},
		{"the address of a workload with this waypoint", "10.91.0.1:8080", 200},
		{"a hostname of nobody", "nobody.demo:80", 503},
		{"an address of nobody", "10.96.0.3:8080", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			if status, err := m.ask(a, m.server, test.authority); err != nil || status != test.want {
				t.Errorf("answered %d, %v; want %d", status, err, test.want)
			}
		})
	}
}
