package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// An endpoint that is gone, though the control plane still names it, costs no request.
func TestADeadEndpointFailsNoRequest(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("alive"))
	dead := m.serve(serverHost+1, echo("dead"))
	m.know(m.service("web", httpPort, 8080, serverHost, serverHost+1)...)
	var answered, before atomic.Int32
	var clients []*http.Client
	for range 4 {
		clients = append(clients, m.browser(m.caller("shop", "client")))
	}
	end := m.load("http://web/", func(text string) {
		if answered.Add(1); strings.HasPrefix(text, "dead") {
			before.Add(1)
		}
	}, clients...)
	m.eventually("both endpoints to have answered", func() error {
		if before.Load() < 10 {
			return errors.New("they haven't")
		}
		return nil
	})
	if err := dead.Shutdown(t.Context()); err != nil { // answers what it has, and closes all connections
		t.Error(err)
	}
	at := answered.Load()
	m.eventually("further answers", func() error {
		if answered.Load() < at+200 && !t.Failed() {
			return errors.New("too few")
		}
		return nil
	})
	end()
}

// Who doesn't read holds up its server, and nobody's memory fills.
func TestASlowReaderSlowsItsServer(t *testing.T) {
	m := newMesh(t)
	var written atomic.Int64
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		piece := make([]byte, 64<<10)
		for range 1000 {
			n, err := w.Write(piece)
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	resp, err := c.Get("http://web/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	last := int64(-1)
	m.eventually("the server to be held up", func() error {
		now := written.Load()
		if same := now == last; same && now > 0 {
			return nil
		}
		last = now
		time.Sleep(200 * time.Millisecond)
		return fmt.Errorf("%d bytes", now)
	})
	if last > 32<<20 { // windows and sockets of four connections
		t.Errorf("the server could write %d bytes that nobody read", last)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 64_000<<10 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAnUpgradedConnectionCarriesBytesBothWays(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, _ := buffered.ReadString('\n')
		fmt.Fprint(conn, strings.ToUpper(line))
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	short := rule("/", "web")
	short.RequestTimeoutMs = 1000 // which ends when it is upgraded; a busy machine needs some of it
	m.know(httpRoute("web", "web", short))
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v; want 101", resp, err)
	}
	time.Sleep(1100 * time.Millisecond) // what is tested is that nothing happens then
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); line != "HELLO\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// A pod's own address has nothing to do with its services' routes. Its waypoint, if it has one, passes the connection on.
func TestAPodThatIsDialledByItsOwnAddressHasNoRoutes(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("pod"))
	resources := m.service("web", httpPort, 8080, serverHost)
	resources[1].(*workload.Workload).Waypoint = resources[0].(*workload.Service).Waypoint
	m.know(resources...)
	moved := rule("/")
	moved.Filters = &l7.Filters{Redirect: &l7.Redirect{Hostname: "elsewhere", Status: 302}}
	everywhere := proto.Clone(httpRoute("all", "web", moved)).(*l7.Resource)
	everywhere.Targets = []*l7.Target{{Of: &l7.Target_Gateway{Gateway: "shop/wp"}}}
	m.know(httpRoute("web", "web", moved), everywhere)
	caller := m.caller("shop", "client")
	pod := netip.AddrPortFrom(m.addr(serverHost), 8080).String()
	conn, err := caller.Connect(t, m.identity(), netip.MustParseAddrPort(m.at(15008)), pod)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if status := status(t, conn); status != 200 {
		t.Errorf("status %d, want 200", status)
	}
	if resp, _ := fetch(t, m.browser(caller), "http://web/"); resp.StatusCode != 302 {
		t.Errorf("by the service: %d, want 302", resp.StatusCode)
	}
}

// status makes a request on a connection.
func status(t *testing.T, conn net.Conn) int {
	t.Helper()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// What the control plane only knows the name of is resolved.
func TestAnEndpointThatHasOnlyANameIsResolved(t *testing.T) {
	m := newMesh(t)
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: echo("named")}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	resources := m.service("web", httpPort, uint32(listener.Addr().(*net.TCPAddr).Port), serverHost)
	resources[1].(*workload.Workload).Addresses, resources[1].(*workload.Workload).Hostname = nil, "localhost"
	m.know(resources...)
	if resp, text := fetch(t, m.browser(m.caller("shop", "client")), "http://web/"); resp.StatusCode != 200 || !strings.HasPrefix(text, "named") {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	resources[1].(*workload.Workload).Hostname = "nowhere.invalid"
	m.know(resources...)
	if resp, text := fetch(t, m.browser(m.caller("shop", "client")), "http://web/"); resp.StatusCode != 503 {
		t.Errorf("a name that means nothing: %d %q, want 503", resp.StatusCode, text)
	}
}

// A client that never ends its tunnel would never come to another instance.
func TestOldTunnelsAreReplacedWithoutAFailedRequest(t *testing.T) {
	m := newMesh(t, func(c *config.Config) { c.MaxConnectionAge = 100 * time.Millisecond })
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	caller := m.caller("shop", "client")
	for version, c := range map[int]*http.Client{1: m.browser(caller), 2: m.browser2(caller)} {
		tunnels := func() int {
			addresses := map[string]bool{}
			for _, found := range regexp.MustCompile(`downstream_remote_address=(\S+)`).FindAllStringSubmatch(m.log.String(), -1) {
				addresses[found[1]] = true
			}
			return len(addresses)
		}
		before := tunnels()
		m.eventually("further tunnels", func() error {
			for range 20 {
				if resp, text := fetch(t, c, "http://web/"); resp.StatusCode != 200 {
					t.Errorf("HTTP/%d: %d %s", version, resp.StatusCode, text)
				}
			}
			if n := tunnels() - before; n < 3 {
				return fmt.Errorf("%d tunnels", n)
			}
			return nil
		})
	}
}
