// Package onloop gives tests of code on an event loop what it works with: a loop, sockets of real connections, and streams of real tunnels.
package onloop

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Patience bounds what a test waits for.
const Patience = 20 * time.Second

// New makes a loop, which ends with the test.
func New(tb testing.TB) *loop.Loop {
	tb.Helper()
	l, err := loop.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(l.Close)
	return l
}

// Do runs f on the loop and waits for it.
func Do(tb testing.TB, l *loop.Loop, f func()) {
	tb.Helper()
	if err := l.Do(f); err != nil {
		tb.Error(err)
	}
}

// Eventually waits until condition, which runs on the loop, is true.
func Eventually(tb testing.TB, l *loop.Loop, what string, condition func() bool) {
	tb.Helper()
	tick, over := time.NewTicker(time.Millisecond), time.After(Patience)
	defer tick.Stop()
	for {
		met := false
		Do(tb, l, func() { met = condition() })
		if met {
			return
		}
		select {
		case <-tick.C:
		case <-over:
			tb.Fatalf("waited %v for %s", Patience, what)
		}
	}
}

// Listen has serve take over, on the loop, the sockets of those who connect to the address, until the test's end.
func Listen(tb testing.TB, l *loop.Loop, serve func(fd int)) (addr string) {
	tb.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			fd, err := socket.Take(conn)
			if err != nil {
				tb.Error(err)
				return
			}
			if err := l.Post(func() { serve(fd) }); err != nil {
				tb.Error(err)
			}
		}
	}()
	tb.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// Dial connects, and gives the socket to a loop's code. It may be called on a loop: within a machine it waits for nobody.
func Dial(tb testing.TB, addr string) (fd int) {
	tb.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Error(err)
		return -1
	}
	fd, err = socket.Take(conn.(*net.TCPConn))
	if err != nil {
		tb.Error(err)
	}
	return fd
}

// Socket makes a connection of which one end is a test's and the other a loop's code's.
func Socket(tb testing.TB) (conn *net.TCPConn, fd int) {
	tb.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	fd = Dial(tb, listener.Addr().String())
	conn, err = listener.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn, fd
}

// Tunnels is a pool and a server of tunnels with each other, both on one loop.
type Tunnels struct {
	tb     testing.TB
	loop   *loop.Loop
	pool   *hbone.Pool
	target hbone.Target
	accept func(*hbone.Stream)
}

// NewTunnels makes a pool and a server, until the test's end.
func NewTunnels(tb testing.TB, l *loop.Loop) *Tunnels {
	tb.Helper()
	ca := testca.New(tb, "cluster.local")
	client, server := ca.Credential(ca.Identity("shop", "client")), ca.Credential(ca.Identity("shop", "server"))
	t := &Tunnels{tb: tb, loop: l}
	srv := hbone.NewServer(hbone.ServerConfig{
		Loop:   l,
		TLS:    func(context.Context) (*tls.Config, error) { return mtls.Policy{}.ServerConfig(server), nil },
		Handle: t.handle,
	})
	addr := Listen(tb, l, func(fd int) { srv.Serve(fd, netip.AddrPort{}, netip.AddrPort{}) })
	t.target = hbone.Target{Source: client.Identity, Expected: []identity.Workload{server.Identity}, Addr: netip.MustParseAddrPort(addr)}
	t.pool = hbone.NewPool(hbone.PoolConfig{
		Loop: l,
		Dial: func(to netip.AddrPort, done func(int, error)) (func(), error) {
			fd := Dial(tb, to.String())
			_ = l.Post(func() { done(fd, nil) })
			return func() {}, nil
		},
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.Policy{}.ClientConfig(client, expected), nil
		},
	})
	tb.Cleanup(func() {
		poolGone, serverGone := make(chan struct{}), make(chan struct{})
		Do(tb, l, func() {
			t.pool.Close()
			srv.Close()
			t.pool.OnGone(func() { close(poolGone) })
			srv.OnGone(func() { close(serverGone) })
		})
		<-poolGone
		<-serverGone
	})
	return t
}

func (t *Tunnels) handle(in *hbone.Incoming) {
	s, err := in.Accept(hbone.Baggage{})
	if err != nil {
		t.tb.Error(err)
		return
	}
	t.accept(s)
}

// Stream opens a stream and gives both its ends to code, on the loop. It is called beside it.
func (t *Tunnels) Stream(client, server func(*hbone.Stream)) {
	t.tb.Helper()
	done := make(chan error, 1)
	request := hbone.Request{Authority: hbone.AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.1:80"))}
	Do(t.tb, t.loop, func() {
		t.accept = server
		t.pool.Connect(t.target, request, func(s *hbone.Stream, err error) {
			if err == nil {
				client(s)
			}
			done <- err
		})
	})
	if err := <-done; err != nil {
		t.tb.Fatal(err)
	}
}

// Take gives a connection's socket to a loop's code.
func Take(tb testing.TB, conn *net.TCPConn) (fd int) {
	tb.Helper()
	fd, err := socket.Take(conn)
	if err != nil {
		tb.Error(err)
	}
	return fd
}
