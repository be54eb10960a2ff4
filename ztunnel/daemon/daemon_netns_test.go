package daemon

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPodsTalkThroughATunnel(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	for _, to := range []netip.Addr{m.server.v4, m.server.v6} {
		seen, conn, err := m.client.call(netip.AddrPortFrom(to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]netip.Addr{true: m.client.v4, false: m.client.v6}[to.Is4()]; seen != want.String() {
			t.Errorf("the application sees %s, want the client %s", seen, want)
		}
		conn.Close()
	}
	m.server.node.eventually("log the connection", func() bool {
		return strings.Contains(m.server.node.log.String(), "connection complete")
	})
	t.Log(m.server.node.log)
	t.Log(m.client.node.log)
}
