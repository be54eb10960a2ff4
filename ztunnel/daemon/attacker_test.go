package daemon

import (
	"context"
	"net"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// asker opens tunnels from a namespace, past any ztunnel.
func (m *mesh) asker(from *socket.Netns, credential *mtls.Credential) *byhand.Client {
	return byhand.New(m.t, credential, func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		return from.Dial(ctx, addr, socket.DialConfig{Mark: socket.Mark})
	})
}

// ask sends a CONNECT to the pod's tunnel port and returns the status, or an error where there is no answer.
func (m *mesh) ask(c *byhand.Client, to *testPod, authority string) (int, error) {
	m.t.Helper()
	return c.Ask(m.t, m.ca.Identity("demo", to.name), netip.AddrPortFrom(to.v4, 15008), authority)
}

func (m *mesh) connect(c *byhand.Client, to *testPod, authority string) (net.Conn, error) {
	m.t.Helper()
	return c.Connect(m.t, m.ca.Identity("demo", to.name), netip.AddrPortFrom(to.v4, 15008), authority)
}
