package daemon

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
)

// hold runs a server that says its name, of three letters, and repeats what it hears.
func (m *mesh) hold(host byte, name string) {
	m.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 9000).String())
	if err != nil {
		m.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name)
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	m.t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
}

// held opens a connection to a service, and says who is at its other end.
func (m *mesh) held(c *byhand.Client, service string) (net.Conn, string) {
	m.t.Helper()
	conn, err := m.through(c, service)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	name := make([]byte, 3)
	if _, err := io.ReadFull(conn, name); err != nil {
		m.t.Fatal(err)
	}
	return conn, string(name)
}

// tcpRoute is httpRoute for what isn't looked into.
func tcpRoute(name, service string, backends ...string) *l7.Resource {
	r := httpRoute(name, service, &l7.Rule{Backends: rule("/", backends...).GetBackends()})
	r.Origin.Kind, r.GetRoute().Protocol = "TCPRoute", l7.Route_TCP
	return r
}

func TestConnectionsThatARouteLeadsElsewhereAreCutAndOthersGoOn(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"old", "new", "dbx"} {
		m.hold(serverHost+byte(i), name)
		m.know(m.service(name, workload.AppProtocol_TCP, 9000, serverHost+byte(i))...)
	}
	c := m.caller("shop", "client")
	cut := func(conn net.Conn) {
		t.Helper()
		if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Errorf("%d bytes come, %v; want the end", n, err)
		} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Error("the connection goes on")
		}
	}
	lives := func(conn net.Conn) {
		t.Helper()
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Errorf("the connection is over: %v", err)
		}
	}
	unrouted, name := m.held(c, "dbx")
	other, _ := m.held(c, "old")
	if name != "dbx" {
		t.Fatalf("without a route it leads to %s", name)
	}
	m.know(tcpRoute("r", "dbx", "old"))
	cut(unrouted)
	routed, name := m.held(c, "dbx")
	if name != "old" {
		t.Errorf("the route leads to %s", name)
	}
	m.know(tcpRoute("r", "dbx", "old", "new")) // of which it is one still
	lives(routed)
	m.know(tcpRoute("r", "dbx", "new"))
	cut(routed)
	if _, name = m.held(c, "dbx"); name != "new" {
		t.Errorf("the changed route leads to %s", name)
	}
	lives(other)
}

// A connection that a route of the client's namespace leads to another port of the service is asked about for that one too, also when policies change.
func TestAClientsTCPRouteGoesRoundNoPolicyOfTheService(t *testing.T) {
	m := newMesh(t)
	m.hold(serverHost, "web")
	web := m.service("web", workload.AppProtocol_TCP, 9000, serverHost)
	admin := &workload.Port{ServicePort: 81, TargetPort: 9000}
	web[0].(*workload.Service).Ports = append(web[0].(*workload.Service).Ports, admin)
	ports := web[1].(*workload.Workload).Services["shop/web.shop"]
	ports.Ports = append(ports.Ports, admin)
	m.know(web...)
	theirs := tcpRoute("theirs", "web", "web")
	theirs.Targets[0].ConsumerNamespace, theirs.GetRoute().Rules[0].Backends[0].Ref.Port = "team", 81
	m.know(theirs)
	team, shop := m.caller("team", "client"), m.caller("shop", "client")
	held, _ := m.held(team, "web")
	other, _ := m.held(shop, "web")
	m.know(policy("admin", "web", l7.Policy_DENY, &l7.PolicyRule{To: []*l7.Operation{{Ports: &l7.Ports{Any: []uint32{81}}}}}))
	if n, err := held.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what the policy forbids now isn't cut: %d bytes, %v", n, err)
	}
	var status *hbone.StatusError
	if _, err := m.through(team, "web"); !errors.As(err, &status) || status.Status != 401 {
		t.Errorf("what the policy forbids is answered %v, want 401", err)
	}
	m.held(shop, "web")
	if _, err := io.WriteString(other, "x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Errorf("what the policy doesn't forbid is cut: %v", err)
	}
	own := tcpRoute("own", "web", "web")
	own.GetRoute().Rules[0].Backends[0].Ref.Port = 81
	m.know(own)
	m.held(shop, "web") // where a service's own route leads is its owner's wish
}
