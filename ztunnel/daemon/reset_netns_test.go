package daemon

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// way is how a connection can pass a ztunnel.
type way struct {
	name     string
	from, to *testPod
}

func (m *mesh) ways() []way {
	return []way{{"through a tunnel", m.client, m.server}, {"plain text that arrives", m.outside, m.server}, {"to somebody unknown", m.client, m.outside}}
}

func (p *testPod) both() []netip.Addr { return []netip.Addr{p.v4, p.v6} }

// accepted connects two pods, sends a byte so that all in between is set up, and returns both ends.
func accepted(t *testing.T, from *testPod, l *net.TCPListener, to netip.AddrPort) (near, far *net.TCPConn) {
	t.Helper()
	near, err := from.Dial(t.Context(), to, socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	l.SetDeadline(time.Now().Add(patience))
	if far, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	near.SetDeadline(time.Now().Add(patience))
	far.SetDeadline(time.Now().Add(patience))
	if _, err = near.Write([]byte("x")); err == nil {
		_, err = io.ReadFull(far, make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// abort ends a connection as an application does that crashes with something unread.
func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

func TestResetsOfApplicationsAreSeenByTheirPeers(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	for _, way := range m.ways() {
		l, err := way.to.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:7070")})
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range way.to.both() {
			t.Run(way.name+" to "+addr.String(), func(t *testing.T) {
				near, far := accepted(t, way.from, l, netip.AddrPortFrom(addr, 7070))
				abort(far)
				cut(t, near)
				near, far = accepted(t, way.from, l, netip.AddrPortFrom(addr, 7070))
				abort(near)
				cut(t, far)
				near, far = accepted(t, way.from, l, netip.AddrPortFrom(addr, 7070))
				near.Close()
				if _, err := far.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("the end of the client is seen as %v, want an end and no reset", err)
				}
			})
		}
		l.Close()
	}
	m.client.node.waitAccounts()
	m.server.node.waitAccounts()
}

// Where nobody listens, the application sees it at once, and not as an empty answer.
func TestRefusedConnectionsAreResetAtOnce(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(dualWeb(nil))
	m.up(m.client, m.server)
	m.describe(m.server, endpointOf(webHost))
	m.describe(m.outside, func(w *workload.Workload) { w.TunnelProtocol = workload.TunnelProtocol_NONE })
	m.sync()
	m.routeServices()
	for _, way := range append(m.ways(), way{"to a service", m.client, &testPod{name: "service", v4: serviceV4, v6: serviceV6}}) {
		port := uint16(9999)
		if way.to.name == "service" {
			port = 80
		}
		for _, addr := range way.to.both() {
			t.Run(way.name+" at "+addr.String(), func(t *testing.T) {
				start := time.Now()
				_, conn, err := way.from.call(netip.AddrPortFrom(addr, port))
				if err == nil {
					conn.Close()
				}
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the application sees %v, want a reset", err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}
