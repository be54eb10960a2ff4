package h1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy passes what comes to addr on to a server, by a Server and Clients, and nothing between them.
type proxy struct {
	tb       testing.TB
	loop     *loop.Loop
	addr     string
	upstream string
	cfg      ServerConfig
	handle   exchange.Handler // instead of passing on, if it isn't nil

	// The loop's.
	servers []*Server
	clients []*Client // all that aren't gone
	free    []*Client
	dialled int
	freed   int // how often a connection was
	refused []error
	closed  int // Servers that are over
}

// newProxy makes a proxy for a server's address, until the test's end.
func newProxy(tb testing.TB, upstream string, cfg ServerConfig) *proxy {
	p := &proxy{tb: tb, loop: onloop.New(tb), upstream: upstream, cfg: cfg}
	p.cfg.Scheme = "http"
	p.cfg.Handle = func(req *exchange.Request, client exchange.Client) exchange.Server {
		if p.handle != nil {
			return p.handle(req, client)
		}
		return p.client().Handle(req, client)
	}
	p.cfg.Refused = func(_ int, err error) { p.refused = append(p.refused, err) }
	p.cfg.Closed = func() { p.closed++ }
	tb.Cleanup(func() {
		onloop.Do(tb, p.loop, func() {
			for _, s := range p.servers {
				s.Broken(io.ErrClosedPipe)
				s.pipe.Reset()
			}
			for _, c := range slices.Clone(p.clients) {
				c.Close()
				c.reset()
			}
			if p.closed != len(p.servers) {
				tb.Errorf("of %d connections %d have said that they are closed", len(p.servers), p.closed)
			}
		})
	})
	p.addr = onloop.Listen(tb, p.loop, func(fd int) { p.servers = append(p.servers, Serve(pipe.OverSocket(p.loop, fd, nil), p.cfg)) })
	return p
}

// client returns a connection to the server that is free.
func (p *proxy) client() *Client {
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		return c
	}
	p.dialled++
	c := NewClient(pipe.OverSocket(p.loop, onloop.Dial(p.tb, p.upstream), nil), ClientConfig{
		Free: func(c *Client) { p.free, p.freed = append(p.free, c), p.freed+1 },
		Gone: func(c *Client) {
			same := func(other *Client) bool { return other == c }
			p.free = slices.DeleteFunc(p.free, same)
			p.clients = slices.DeleteFunc(p.clients, same)
		},
	})
	p.clients = append(p.clients, c)
	return c
}

func (p *proxy) on(f func()) {
	p.tb.Helper()
	onloop.Do(p.tb, p.loop, f)
}

// handleBy has handle answer what comes from now on.
func (p *proxy) handleBy(handle exchange.Handler) { p.on(func() { p.handle = handle }) }

func (p *proxy) eventually(what string, condition func() bool) {
	p.tb.Helper()
	onloop.Eventually(p.tb, p.loop, what, condition)
}

func (p *proxy) url(path string) string { return "http://" + p.addr + path }

// newServer makes a net/http server, until the test's end.
func newServer(tb testing.TB, handler http.HandlerFunc) (addr string) {
	srv := httptest.NewServer(handler)
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// newHTTPClient makes a net/http client, until the test's end.
func newHTTPClient(tb testing.TB) *http.Client {
	transport := &http.Transport{DisableCompression: true, ExpectContinueTimeout: onloop.Patience}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: onloop.Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rawClient is a client by hand.
type rawClient struct {
	*net.TCPConn
	*bufio.Reader
	tb testing.TB
}

func (p *proxy) dial() *rawClient {
	p.tb.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(onloop.Patience))
	return &rawClient{conn.(*net.TCPConn), bufio.NewReader(conn), p.tb}
}

func (c *rawClient) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *rawClient) say(format string, args ...any) {
	c.tb.Helper()
	if _, err := fmt.Fprintf(c.TCPConn, format, args...); err != nil {
		c.tb.Fatal(err)
	}
}

// head reads an answer's head as it came.
func (c *rawClient) head() string {
	c.tb.Helper()
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := c.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			c.tb.Fatalf("after %q: %v", head.String(), err)
		}
	}
	return head.String()
}

// hear reads n bytes.
func (c *rawClient) hear(n int) string {
	c.tb.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		c.tb.Fatal(err)
	}
	return string(p)
}

// rest reads until the end.
func (c *rawClient) rest() string {
	c.tb.Helper()
	p, err := io.ReadAll(c)
	if err != nil {
		c.tb.Errorf("after %q: %v", p, err)
	}
	return string(p)
}

// script is a server by hand: serve has the connections that come, one after the other.
func script(tb testing.TB, serve func(c *rawClient)) (addr string) {
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
			_ = conn.SetDeadline(time.Now().Add(onloop.Patience))
			serve(&rawClient{conn, bufio.NewReader(conn), tb})
			_ = conn.Close()
		}
	}()
	tb.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}
