package daemon

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// shout runs a server that answers in capitals once its client has ended.
func (m *mesh) shout(host byte) {
	m.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 9000).String())
	if err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			text, _ := io.ReadAll(conn)
			_, _ = conn.Write([]byte(strings.ToUpper(string(text))))
			_ = conn.Close()
		}
	}()
	m.t.Cleanup(func() { _ = listener.Close(); <-done })
}

func TestOpaqueConnectionsPassBothWaysWithHalfCloses(t *testing.T) {
	m := newMesh(t)
	m.shout(serverHost)
	m.know(m.service("db", workload.AppProtocol_TCP, 9000, serverHost)...)
	conn, err := m.through(m.caller("shop", "client"), "db")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text := strings.Repeat("hello ", 100_000)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != strings.ToUpper(text) {
		t.Fatalf("%d bytes, %v; want %d in capitals", len(got), err, len(text))
	}
	m.eventually("the connection to be counted", func() error {
		if n := m.metric("istio_tcp_connections_closed_total", `reporter="waypoint"`, `destination_workload="db"`, `response_flags="-"`); n != 1 {
			return io.ErrNoProgress
		}
		return nil
	})
	for metric, want := range map[string]float64{"istio_tcp_received_bytes_total": float64(len(text)), "istio_tcp_sent_bytes_total": float64(len(text))} {
		if got := m.metric(metric, `reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/shop/sa/client"`); got != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
}

func TestAnEndpointThatRefusesIsLeftForAnother(t *testing.T) {
	m := newMesh(t)
	m.shout(serverHost)
	m.know(m.service("db", workload.AppProtocol_TCP, 9000, serverHost, serverHost+1, serverHost+2)...) // nobody listens at two of them
	client := m.caller("shop", "client")
	for range 20 {
		conn, err := m.through(client, "db")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
}

func TestOnlyWhatIsBoundToTheWaypointIsReachedThroughIt(t *testing.T) {
	m := newMesh(t)
	unbound := m.service("other", workload.AppProtocol_TCP, 9000, serverHost)
	unbound[0].(*workload.Service).Waypoint = nil
	m.know(unbound...)
	client := m.caller("shop", "client")
	at := netip.MustParseAddrPort(m.at(15008))
	for _, authority := range []string{
		netip.AddrPortFrom(m.vip("other"), 80).String(), netip.AddrPortFrom(m.addr(serverHost), 9000).String(), "other.shop:80", "1.2.3.4:80", "example.com:80",
	} {
		if status, err := client.Ask(t, m.identity(), at, authority); status != 400 {
			t.Errorf("%s: status %d, %v; want 400", authority, status, err)
		}
	}
	bound := m.service("db", workload.AppProtocol_TCP, 9000, serverHost)
	m.know(bound...)
	for _, authority := range []string{netip.AddrPortFrom(m.vip("db"), 81).String(), netip.AddrPortFrom(m.vip("db"), 80).String()} {
		if status, err := client.Ask(t, m.identity(), at, authority); status != 503 { // there is no such port, and nobody listens
			t.Errorf("%s: status %d, %v; want 503", authority, status, err)
		}
	}
	m.shout(serverHost)
	m.eventually("an answer", func() error {
		conn, err := client.Connect(t, m.identity(), at, "db.shop:80")
		if err == nil {
			conn.Close()
		}
		return err
	})
}
