// Package byhand opens tunnels to a pod past any ztunnel of the client's: what a hostile or broken peer could do.
package byhand

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
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// patience bounds what a test waits for; a peer may wait for its configuration and its application before it answers.
const patience = 20 * time.Second

// Client opens tunnels that prove one identity.
type Client struct {
	// Baggage is what it tells of itself, true or not.
	Baggage hbone.Baggage

	credential *mtls.Credential
	loop       *loop.Loop
	pool       *hbone.Pool
}

// New makes a client that dials by dial, until the test's end.
func New(tb testing.TB, credential *mtls.Credential, dial func(context.Context, netip.AddrPort) (*net.TCPConn, error)) *Client {
	tb.Helper()
	l, err := loop.New()
	if err != nil {
		tb.Fatal(err)
	}
	c := &Client{credential: credential, loop: l}
	c.pool = hbone.NewPool(hbone.PoolConfig{
		Loop: l,
		Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			go func() {
				fd := -1
				conn, err := dial(ctx, addr)
				if err == nil {
					fd, err = socket.Take(conn)
				}
				_ = l.Post(func() { done(fd, err) })
			}()
			return cancel, nil
		},
		TLS: func(_ context.Context, _ identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			return mtls.Policy{}.ClientConfig(credential, expected), nil
		},
	})
	tb.Cleanup(c.close)
	return c
}

func (c *Client) close() {
	gone := make(chan struct{})
	_ = c.loop.Post(func() {
		c.pool.Close()
		c.pool.OnGone(func() { close(gone) })
	})
	<-gone
	c.loop.Close()
}

// Connect asks the peer at addr, who has to prove expected, for an authority. The error is a *hbone.StatusError if the peer
// has answered otherwise than by 200.
func (c *Client) Connect(tb testing.TB, expected identity.Workload, addr netip.AddrPort, authority string) (net.Conn, error) {
	tb.Helper()
	to, err := hbone.ParseAuthority(authority)
	if err != nil {
		tb.Fatal(err)
	}
	ours, theirs := pair(tb)
	answer := make(chan error, 1)
	c.Do(func() {
		c.Open(expected, addr, to, func(s *hbone.Stream, err error) {
			if err != nil {
				_ = unix.Close(theirs)
			} else {
				s.Join(theirs, func(relay.Result) {})
			}
			answer <- err
		})
	})
	select {
	case err = <-answer:
	case <-time.After(patience):
		err = errors.New("no answer")
	}
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	return ours, nil
}

// Do runs f on the client's loop, soon.
func (c *Client) Do(f func()) { _ = c.loop.Post(f) }

// Open is Connect for who wants the stream itself, and has no file to spare for each. It is called on the client's loop, where opened is called.
func (c *Client) Open(expected identity.Workload, addr netip.AddrPort, authority hbone.Authority, opened func(*hbone.Stream, error)) {
	target := hbone.Target{Source: c.credential.Identity, Expected: []identity.Workload{expected}, Addr: addr}
	c.pool.Connect(target, hbone.Request{Authority: authority, Baggage: c.Baggage, Trace: trace.New()}, opened)
}

// Ask is Connect for the status alone; an error is anything but an answer.
func (c *Client) Ask(tb testing.TB, expected identity.Workload, addr netip.AddrPort, authority string) (int, error) {
	tb.Helper()
	conn, err := c.Connect(tb, expected, addr, authority)
	var status *hbone.StatusError
	switch {
	case errors.As(err, &status):
		return status.Status, nil
	case err != nil:
		return 0, err
	}
	return 200, conn.Close()
}

// pair makes two connected sockets, of which one is for a loop.
func pair(tb testing.TB) (ours net.Conn, theirs int) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "application")
	defer func() { _ = file.Close() }()
	if ours, err = net.FileConn(file); err != nil {
		tb.Fatal(err)
	}
	return ours, fds[1]
}
