package h2c

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchKind); kind != "" {
		serveBench(kind)
		return
	}
	goleak.VerifyTestMain(m)
}

// proxy passes what comes by one version of HTTP on by the other, or the same, and nothing between.
type proxy struct {
	tb       testing.TB
	loop     *loop.Loop
	addr     string
	upstream string
	handle   exchange.Handler // instead of passing on, if it isn't nil

	// The loop's.
	pipes   []*pipe.Pipe
	servers []*Server
	opened  int // client's connections
	closed  int
	refused []error
	free    []*h1.Client
	client  *Client // with HTTP/2; nil before the first request, and when it is gone
	dialled int
}

// newProxy makes a proxy, until the test's end. down and up are "h1" or "h2".
func newProxy(tb testing.TB, down, up, upstream string) *proxy {
	p := &proxy{tb: tb, loop: onloop.New(tb), upstream: upstream}
	handle := held(tb, func(req *exchange.Request, client exchange.Client) exchange.Server {
		switch {
		case p.handle != nil:
			return p.handle(req, client)
		case up == "h1":
			return p.oldClient().Handle(req, client)
		}
		return p.newClient().Handle(req, client)
	})
	tb.Cleanup(func() {
		onloop.Do(tb, p.loop, func() {
			for _, one := range p.pipes {
				one.Broken(io.ErrClosedPipe)
				one.Reset()
			}
			if p.closed != p.opened {
				tb.Errorf("of %d connections %d have said that they are closed", p.opened, p.closed)
			}
		})
	})
	p.addr = onloop.Listen(tb, p.loop, func(fd int) {
		p.opened++
		closed, refused := func() { p.closed++ }, func(_ int, err error) { p.refused = append(p.refused, err) }
		if down == "h1" {
			h1.Serve(p.over(fd), h1.ServerConfig{Scheme: "http", Handle: handle, Closed: closed, Refused: refused})
		} else {
			p.servers = append(p.servers, Serve(p.over(fd), ServerConfig{Handle: handle, Closed: closed, Refused: refused}))
		}
	})
	return p
}

func (p *proxy) over(fd int) *pipe.Pipe {
	one := pipe.OverSocket(p.loop, fd, nil)
	p.pipes = append(p.pipes, one)
	return one
}

func (p *proxy) oldClient() *h1.Client {
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		return c
	}
	p.dialled++
	return h1.NewClient(p.over(onloop.Dial(p.tb, p.upstream)), h1.ClientConfig{
		Free: func(c *h1.Client) { p.free = append(p.free, c) },
		Gone: func(c *h1.Client) {
			p.free = slices.DeleteFunc(p.free, func(other *h1.Client) bool { return other == c })
		},
	})
}

func (p *proxy) newClient() *Client {
	if p.client == nil {
		p.dialled++
		p.client = NewClient(p.over(onloop.Dial(p.tb, p.upstream)), ClientConfig{
			Room: func(*Client) {},
			Gone: func(c *Client) {
				if p.client == c {
					p.client = nil
				}
			},
		})
	}
	return p.client
}

func (p *proxy) on(f func()) {
	p.tb.Helper()
	onloop.Do(p.tb, p.loop, f)
}

func (p *proxy) eventually(what string, condition func() bool) {
	p.tb.Helper()
	onloop.Eventually(p.tb, p.loop, what, condition)
}

func (p *proxy) url(path string) string { return "http://" + p.addr + path }

// protocols is net/http's name for a version.
func protocols(version string) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(version == "h1")
	p.SetUnencryptedHTTP2(version == "h2")
	return p
}

// newServer makes a net/http server, until the test's end.
func newServer(tb testing.TB, version string, handler http.HandlerFunc) (addr string) {
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.Protocols = protocols(version)
	srv.Start()
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// newHTTPClient makes a net/http client, until the test's end. Its connections have a small buffer.
func newHTTPClient(tb testing.TB, version string) *http.Client {
	transport := &http.Transport{
		DisableCompression: true, ExpectContinueTimeout: onloop.Patience, Protocols: protocols(version),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				_ = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
			}
			return conn, err
		},
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: onloop.Patience}
}

// each runs a test for all four ways from one version to another.
func each(t *testing.T, test func(t *testing.T, down, up string)) {
	for _, down := range []string{"h1", "h2"} {
		for _, up := range []string{"h1", "h2"} {
			t.Run(down+" to "+up, func(t *testing.T) { test(t, down, up) })
		}
	}
}
