package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/worker"
)

// asker opens tunnels to a pod by hand, past any ztunnel of its own: what a hostile or broken peer could do.
type asker struct {
	credential *mtls.Credential
	worker     *worker.Worker
	pool       *hbone.Pool
}

func (m *mesh) asker(from *socket.Netns, credential *mtls.Credential) *asker {
	workers, err := worker.Start(1)
	if err != nil {
		m.t.Fatal(err)
	}
	a := &asker{credential: credential, worker: workers[0]}
	a.pool = hbone.NewPool(hbone.PoolConfig{
		Loop: a.worker.Loop,
		Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
			dialling, err := a.worker.Dial(from, addr, socket.DialConfig{Mark: socket.Mark}, done)
			if err != nil {
				return nil, err
			}
			return dialling.Cancel, nil
		},
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.ClientConfig(credential, expected), nil
		},
	})
	m.t.Cleanup(func() {
		gone := make(chan struct{})
		_ = a.worker.Post(func() { a.pool.Close(); a.pool.OnGone(func() { close(gone) }) })
		<-gone
		worker.Close(workers)
	})
	return a
}

// conn joins a stream with a connection for a test to use.
func (a *asker) conn(t *testing.T, s *hbone.Stream) net.Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(pair[1]), "application")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.worker.Do(func() { s.Join(pair[0], func(relay.Result) {}) })
	return conn
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
	_ = a.worker.Do(stream.Reset)
	return 200, nil
}

func (m *mesh) connect(a *asker, to *testPod, authority string) (*hbone.Stream, error) {
	m.t.Helper()
	parsed, err := hbone.ParseAuthority(authority)
	if err != nil {
		m.t.Fatal(err)
	}
	target := hbone.Target{
		Source: a.credential.Identity, Expected: []identity.Workload{m.ca.Identity("demo", to.name)},
		Addr: netip.AddrPortFrom(to.v4, 15008),
	}
	type answer struct {
		stream *hbone.Stream
		err    error
	}
	answers := make(chan answer, 1)
	_ = a.worker.Post(func() {
		a.pool.Connect(target, hbone.Request{Authority: parsed, Trace: hbone.NewTraceParent()}, func(s *hbone.Stream, err error) { answers <- answer{s, err} })
	})
	select {
	case got := <-answers:
		return got.stream, got.err
	case <-time.After(patience):
		return nil, context.DeadlineExceeded
	}
}
