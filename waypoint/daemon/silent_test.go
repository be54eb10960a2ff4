package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/waypoint/downstream"
)

// quietOn is a client's connection to service web, of whose port nothing is known, that has said nothing until the waypoint connected to the server.
func (m *mesh) quietOn(connected <-chan net.Conn) (conn, served net.Conn) {
	m.t.Helper()
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	select {
	case served = <-connected:
		m.t.Cleanup(func() { served.Close() })
	case <-time.After(patience):
		m.t.Fatal("the server isn't connected to")
	}
	m.settle()
	return conn, served
}

// settle returns when the waypoint has seen what came before.
func (m *mesh) settle() {
	m.t.Helper()
	for _, name := range []string{"one", "two"} { // it takes in the second after what came before the first
		m.know(policy(name, "other", l7.Policy_DENY))
	}
}

// get asks for a path and returns the status and body.
func get(t *testing.T, conn net.Conn, path string) (int, string) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A client may connect long before it asks. What was decided on while it was silent, isn't any more when it speaks.
func TestASilentClientMayHaveRequestsToCome(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(m *mesh) // while it is silent
		status int
		server string
	}{
		{"nothing changes", func(*mesh) {}, 200, "web"},
		{"a route comes", func(m *mesh) { m.know(httpRoute("r", "web", rule("/", "new"))) }, 200, "new"},
		{"a route for other requests comes", func(m *mesh) { m.know(httpRoute("r", "web", rule("/other", "new"))) }, 404, ""},
		{"a policy about requests comes", func(m *mesh) { m.know(policy("p", "web", l7.Policy_ALLOW, may("client", "GET"))) }, 200, "web"},
		{"a policy comes that lets in other requests", func(m *mesh) { m.know(policy("p", "web", l7.Policy_ALLOW, may("client", "POST"))) }, 403, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMesh(t)
			connected := make(chan net.Conn, 10)
			var open atomic.Int64
			m.serve(serverHost, echo("web"), func(s *http.Server) {
				s.ConnState = func(conn net.Conn, state http.ConnState) {
					switch state {
					case http.StateNew:
						open.Add(1)
						connected <- conn
					case http.StateClosed:
						open.Add(-1)
					}
				}
			})
			m.serve(serverHost+1, echo("new"))
			m.know(append(m.service("web", workload.AppProtocol_UNKNOWN, 8080, serverHost), m.service("new", workload.AppProtocol_UNKNOWN, 8080, serverHost+1)...)...)
			conn, _ := m.quietOn(connected)
			test.change(m)
			for range 2 {
				status, body := get(t, conn, "/")
				if status != test.status || !strings.HasPrefix(body, test.server) {
					t.Fatalf("%d %q, want %d by %q", status, body, test.status, test.server)
				}
			}
			m.eventually("the connection that nobody has used to be closed", func() error {
				want := int64(0)
				if test.server == "web" {
					want = 1
				}
				if n := open.Load(); n != want {
					return fmt.Errorf("%d are open, want %d", n, want)
				}
				return nil
			})
			if n := m.metric("istio_requests_total", `reporter="waypoint"`); n != 2 {
				t.Errorf("%v requests are counted, want 2", n)
			}
			if n := m.metric("istio_tcp_connections_opened_total", `reporter="waypoint"`, `destination_service_name="web"`); n != 0 {
				t.Errorf("%v opaque connections are counted, want none", n)
			}
		})
	}
}

// A policy that only lets requests in doesn't keep those from coming late.
func TestASilentClientWaitsWhereOnlyRequestsMayPass(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 8080, serverHost)...)
	m.know(policy("p", "web", l7.Policy_ALLOW, may("client", "GET")))
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// That nothing comes within this time is what is tested.
	_ = conn.SetReadDeadline(time.Now().Add(2 * downstream.SilenceTime))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v; want silence", n, err)
	}
	if status, body := get(t, conn, "/"); status != 200 {
		t.Errorf("%d %q", status, body)
	}
	// It isn't a way past the policy.
	other, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_ = other.SetReadDeadline(time.Now().Add(2 * downstream.SilenceTime))
	_, _ = other.Read(make([]byte, 1))
	_ = other.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(other, "EHLO there\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(other); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 400 ") {
		t.Errorf("%q, %v; want 400", text, err)
	}
}

// A client that none of its requests would help isn't left waiting: it may expect its server to speak.
func TestASilentClientThatMayAskNothingIsToldAtOnce(t *testing.T) {
	m := newMesh(t)
	connected := m.mute(serverHost)
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 9000, serverHost)...)
	before, _ := m.quietOn(connected)
	m.know(policy("p", "web", l7.Policy_ALLOW, may("other", "GET")))
	after, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	for name, conn := range map[string]net.Conn{"before": before, "after": after} {
		_ = conn.SetReadDeadline(time.Now().Add(8 * time.Second)) // less than is waited for a request
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connected %s the policy: %d bytes, %v; want the end", name, n, err)
		}
	}
}

func TestWhoSpeaksFirstAfterASilenceTellsWhatItIs(t *testing.T) {
	m := newMesh(t)
	m.hold(serverHost, "web")
	m.hold(serverHost+1, "new")
	m.shout(serverHost + 2)
	for i, name := range []string{"web", "new", "late"} {
		m.know(m.service(name, workload.AppProtocol_UNKNOWN, 9000, serverHost+byte(i))...)
	}
	c := m.caller("shop", "client")
	conn, name := m.held(c, "web") // its server speaks first
	if name != "web" {
		t.Errorf("%q is spoken", name)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n"); err != nil { // now that is no request any more
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	late, err := m.through(c, "late")
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	_ = late.SetReadDeadline(time.Now().Add(2 * downstream.SilenceTime))
	_, _ = late.Read(make([]byte, 1))
	_ = late.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(late, "no request\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = late.(*net.UnixConn).CloseWrite()
	if text, err := io.ReadAll(late); err != nil || string(text) != "NO REQUEST\r\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// mute runs a server that says nothing.
func (m *mesh) mute(host byte) (connected chan net.Conn) {
	m.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 9000).String())
	if err != nil {
		m.t.Fatal(err)
	}
	connected = make(chan net.Conn, 10)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connected <- conn
		}
	})
	m.t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
		close(connected)
		for conn := range connected {
			_ = conn.Close()
		}
	})
	return connected
}

func TestASilentConnectionGoesWhereANewRouteLeads(t *testing.T) {
	m := newMesh(t)
	connected := m.mute(serverHost)
	m.hold(serverHost+1, "new")
	for i, name := range []string{"web", "new"} {
		m.know(m.service(name, workload.AppProtocol_UNKNOWN, 9000, serverHost+byte(i))...)
	}
	conn, _ := m.quietOn(connected)
	m.know(tcpRoute("r", "web", "new"))
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	name := make([]byte, 3)
	if _, err := io.ReadFull(conn, name); err != nil || string(name) != "new" {
		t.Errorf("%q, %v", name, err)
	}
}

// What the service is when the client speaks is what counts, not what it was when that connected.
func TestAServiceMayChangeWhileAClientIsSilent(t *testing.T) {
	m := newMesh(t)
	connected := make(chan net.Conn, 10)
	m.serve(serverHost, echo("web"), func(s *http.Server) {
		s.ConnState = func(conn net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connected <- conn
			}
		}
	})
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 8080, serverHost)...)
	conn, _ := m.quietOn(connected)
	m.know(m.service("web", workload.AppProtocol_TCP, 8080, serverHost)...)
	m.settle()
	if status, body := get(t, conn, "/"); status != 200 || !strings.HasPrefix(body, "web") {
		t.Fatalf("%d %q", status, body)
	}
	if n := m.metric("istio_tcp_connections_opened_total", `reporter="waypoint"`, `destination_service_name="web"`); n != 1 {
		t.Errorf("%v opaque connections are counted, want one: the port is TCP's now", n)
	}
}

func TestASilentConnectionThatEndsIsCounted(t *testing.T) {
	m := newMesh(t)
	connected := m.mute(serverHost)
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 9000, serverHost)...)
	conn, served := m.quietOn(connected)
	_ = conn.Close()
	_ = served.Close()
	m.eventually("the connection to be counted", func() error {
		if n := m.metric("istio_tcp_connections_closed_total", `reporter="waypoint"`, `destination_service_name="web"`); n != 1 {
			return io.ErrNoProgress
		}
		return nil
	})
}

// What is no request stays until it is known to be none, and goes by the policies of that time.
func TestAPolicyThatComesWhenASilentClientBeginsToSpeak(t *testing.T) {
	m := newMesh(t)
	connected := m.mute(serverHost)
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 9000, serverHost)...)
	conn, served := m.quietOn(connected)
	if _, err := io.WriteString(conn, "EH"); err != nil {
		t.Fatal(err)
	}
	m.settle()
	m.know(policy("p", "web", l7.Policy_DENY, &l7.PolicyRule{From: []*l7.Source{{Principals: exactly("cluster.local/ns/shop/sa/client")}}}))
	m.settle()
	if _, err := io.WriteString(conn, "LO\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	// If it had said nothing when the policy came, it is still heard, for requests.
	if errors.Is(err, os.ErrDeadlineExceeded) || len(text) > 0 && !strings.HasPrefix(string(text), "HTTP/1.1 400 ") {
		t.Errorf("the client gets %q, %v; want a reset", text, err)
	}
	_ = served.SetReadDeadline(time.Now().Add(patience))
	if n, err := served.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server gets %d bytes, %v; want the end", n, err)
	}
}

// A connection that is being made when the rules change goes by the new ones.
func TestRulesThatChangeWhileAServerIsConnectedTo(t *testing.T) {
	for _, test := range []struct {
		name   string
		change *l7.Resource
		want   string
		status string
	}{
		{"a route comes", tcpRoute("r", "web", "new"), "new", ""},
		{"a policy comes", policy("p", "web", l7.Policy_DENY, &l7.PolicyRule{From: []*l7.Source{{Principals: exactly("cluster.local/ns/shop/sa/client")}}}), "", "401"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMesh(t)
			open := m.busyListener(serverHost)
			m.hold(serverHost+1, "new")
			m.know(m.service("web", workload.AppProtocol_TCP, 8080, serverHost)...)
			type result struct {
				conn net.Conn
				err  error
			}
			done := make(chan result, 1)
			go func() {
				conn, err := m.through(m.caller("shop", "client"), "web")
				done <- result{conn, err}
			}()
			m.eventually("the waypoint to connect", func() error {
				if m.dialling(serverHost) == 0 {
					return io.ErrNoProgress
				}
				return nil
			})
			m.know(m.service("new", workload.AppProtocol_TCP, 9000, serverHost+1)...)
			m.know(test.change)
			open()
			got := <-done
			if test.status != "" {
				if got.err == nil || !strings.Contains(got.err.Error(), test.status) {
					t.Errorf("%v, want status %s", got.err, test.status)
				}
				return
			}
			if got.err != nil {
				t.Fatal(got.err)
			}
			defer got.conn.Close()
			_ = got.conn.SetReadDeadline(time.Now().Add(patience))
			name := make([]byte, 3)
			if _, err := io.ReadFull(got.conn, name); err != nil || string(name) != test.want {
				t.Errorf("%q, %v", name, err)
			}
		})
	}
}

// busyListener is fullListener, but that open makes room in its queue, so that who waits gets in with the next SYN, after a second.
func (m *mesh) busyListener(host byte) (open func()) {
	m.t.Helper()
	fd, conn := m.filled(host)
	m.t.Cleanup(func() { _ = unix.Close(fd) })
	return func() {
		taken, _, err := unix.Accept(fd)
		if err != nil {
			m.t.Error(err)
		}
		_ = unix.Close(taken)
		_ = conn.Close()
	}
}
