package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// asker opens tunnels to a pod by hand, past any ztunnel of its own: what a hostile or broken peer could do.
type asker struct {
	credential *mtls.Credential
	pool       *hbone.Pool
}

func (m *mesh) asker(from *socket.Netns, credential *mtls.Credential) *asker {
	a := &asker{credential: credential}
	a.pool = hbone.NewPool(hbone.PoolConfig{
		Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			return from.Dial(ctx, addr, socket.DialConfig{Mark: socket.Mark})
		},
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.ClientConfig(credential, expected), nil
		},
	})
	m.t.Cleanup(a.pool.Close)
	return a
}

// ask sends a CONNECT to the pod's tunnel port and returns the status, or an error where there is no answer.
func (m *mesh) ask(a *asker, to *testPod, authority string) (int, error) {
	m.t.Helper()
	stream, err := m.connect(a, to, authority)
	var status *hbone.StatusError
	switch {
	case errors.As(err, &status):
		return status.Status, nil
	case err != nil:
		return 0, err
	}
	stream.Reset()
	return 200, nil
}

func (m *mesh) connect(a *asker, to *testPod, authority string) (*hbone.Stream, error) {
	m.t.Helper()
	parsed, err := hbone.ParseAuthority(authority)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	target := hbone.Target{
		Source: a.credential.Identity, Expected: []identity.Workload{m.ca.Identity("demo", to.name)},
		Addr: netip.AddrPortFrom(to.v4, 15008),
	}
	return a.pool.Connect(ctx, target, hbone.Request{Authority: parsed, Trace: hbone.NewTraceParent()})
}
