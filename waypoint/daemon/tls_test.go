package daemon

import (
	"crypto/tls"
	"io"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
)

// secret runs a server that speaks TLS at one of the rig's hosts, and sends its name.
func (m *mesh) secret(host byte, name string) {
	m.t.Helper()
	borrowed := httptest.NewTLSServer(nil) // for its certificate
	certificates := borrowed.TLS.Certificates
	borrowed.Close()
	listener, err := tls.Listen("tcp", netip.AddrPortFrom(m.addr(host), 8443).String(), &tls.Config{Certificates: certificates})
	if err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	}()
	m.t.Cleanup(func() { _ = listener.Close(); <-done })
}

// asked is what a server of TLS says, by that name of it, behind a service.
func (m *mesh) asked(c *byhand.Client, service, serverName string) string {
	conn, err := m.through(c, service)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	secure := tls.Client(conn, &tls.Config{ServerName: serverName, InsecureSkipVerify: true}) // whose it is plays no part here
	text, _ := io.ReadAll(secure)
	return string(text)
}

func TestTLSIsRoutedByServerNameAndPassedThrough(t *testing.T) {
	m := newMesh(t)
	m.secret(serverHost, "one")
	m.secret(serverHost+1, "two")
	m.know(m.service("one", workload.AppProtocol_TLS, 8443, serverHost)...)
	m.know(m.service("two", workload.AppProtocol_TLS, 8443, serverHost+1)...)
	m.know(m.service("web", workload.AppProtocol_TLS, 8443, serverHost)...)
	route := func(name, service string, serverNames ...string) *l7.Resource {
		r := httpRoute(name, "web", &l7.Rule{Backends: rule("/", service).GetBackends()})
		r.Origin.Kind, r.GetRoute().Protocol, r.GetRoute().ServerNames = "TLSRoute", l7.Route_TLS, serverNames
		return r
	}
	m.know(route("one", "one", "one.example"), route("two", "two", "*.two.example"))
	client := m.caller("shop", "client")
	for serverName, want := range map[string]string{"one.example": "one", "ONE.example": "one", "x.two.example": "two", "three.example": ""} {
		if got := m.asked(client, "web", serverName); got != want {
			t.Errorf("%s leads to %q, want %q", serverName, got, want)
		}
	}
	// What isn't TLS has no server name, and no route.
	conn, err := m.through(client, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: one.example\r\n\r\n")
	if text, _ := io.ReadAll(conn); len(text) > 0 {
		t.Errorf("plain text is answered: %q", text)
	}
}
