package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// certified makes a certificate that has signed for itself, and tells it as PEM.
func certified(t *testing.T, name string, ends time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// secureEcho runs a server of HTTP by TLS at one of the rig's hosts, on port 8443, which answers with its version of HTTP. It counts connections.
func (m *mesh) secureEcho(host byte, certificate tls.Certificate, http2 bool) *atomic.Int64 {
	m.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 8443).String())
	if err != nil {
		m.t.Fatal(err)
	}
	var connections atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s name=%s %s", r.Proto, r.Host, r.URL.Path, r.TLS.ServerName, body)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(http2)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(listener, "", "") })
	m.t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	return &connections
}

// knowWeb makes a service of HTTP, by its route: of a port of which nothing is known, a busy client that says nothing for half a second is taken for one
// of another protocol.
func (m *mesh) knowWeb(name string, protocol workload.AppProtocol, target uint32, host byte) {
	m.t.Helper()
	m.know(append(m.service(name, protocol, target, host), httpRoute(name, name, rule("/", name)))...)
}

// spokenToByTLS says it of a service.
func spokenToByTLS(service string, by *l7.BackendTLS) *l7.Resource {
	return &l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "BackendTLSPolicy", Namespace: "shop", Name: service},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/" + service + ".shop"}}},
		Kind:    &l7.Resource_BackendTls{BackendTls: by},
	}
}

func TestABackendIsSpokenToByTLSAsItLikes(t *testing.T) {
	m := newMesh(t)
	certificate, roots := certified(t, "outside.example", time.Now().Add(time.Hour))
	one, two := m.secureEcho(serverHost, certificate, false), m.secureEcho(serverHost+1, certificate, true)
	m.knowWeb("one", workload.AppProtocol_UNKNOWN, 8443, serverHost)
	m.knowWeb("two", workload.AppProtocol_UNKNOWN, 8443, serverHost+1)
	m.knowWeb("old", workload.AppProtocol_HTTP11, 8443, serverHost+1)
	m.know(m.service("web", workload.AppProtocol_HTTP11, 8080, serverHost)...)
	by := &l7.BackendTLS{Hostname: "outside.example", Authorities: roots}
	m.know(spokenToByTLS("one", by), spokenToByTLS("two", by), spokenToByTLS("old", by), httpRoute("web", "web", rule("/one", "one"), rule("/two", "two")))
	client := m.caller("shop", "client")
	for name, browser := range map[string]*http.Client{"HTTP/1.1": m.browser(client), "HTTP/2": m.browser2(client)} {
		for url, want := range map[string]string{
			"http://one/x": "HTTP/1.1 one /x", "http://two/x": "HTTP/2.0 two /x", "http://old/x": "HTTP/1.1 old /x",
			"http://web/one": "HTTP/1.1 web /one", "http://web/two": "HTTP/2.0 web /two",
		} {
			for range 3 {
				resp, body := fetch(t, browser, url, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("hello")) })
				if resp.StatusCode != 200 || body != want+" name=outside.example hello" {
					t.Errorf("%s of a client of %s: %d %q", url, name, resp.StatusCode, body)
				}
			}
		}
	}
	if one.Load() > 3 || two.Load() > 4 { // by host of the request, and version
		t.Errorf("30 requests made %d and %d connections", one.Load(), two.Load())
	}
}

// Requests that come at once don't wait for each other, though only the first handshake tells which HTTP is spoken.
func TestManyRequestsAtOnceGoByTLS(t *testing.T) {
	m := newMesh(t)
	certificate, roots := certified(t, "outside.example", time.Now().Add(time.Hour))
	m.secureEcho(serverHost, certificate, false)
	m.knowWeb("one", workload.AppProtocol_UNKNOWN, 8443, serverHost)
	m.know(spokenToByTLS("one", &l7.BackendTLS{Hostname: "outside.example", Authorities: roots}))
	browser := m.browser2(m.caller("shop", "client"))
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			resp, err := browser.Get("http://one/x")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
				t.Errorf("%d %q: %v", resp.StatusCode, body, err)
			}
		})
	}
	all.Wait()
}

func TestABackendThatIsNotProvenIsNotSpokenTo(t *testing.T) {
	m := newMesh(t)
	certificate, roots := certified(t, "outside.example", time.Now().Add(time.Hour))
	expired, old := certified(t, "outside.example", time.Now().Add(-time.Hour))
	m.secureEcho(serverHost, certificate, true)
	m.secureEcho(serverHost+1, expired, true)
	m.serve(serverHost, echo("plain"))
	_, strangers := certified(t, "outside.example", time.Now().Add(time.Hour))
	good := &l7.BackendTLS{Hostname: "outside.example", Authorities: roots}
	m.knowWeb("changing", workload.AppProtocol_UNKNOWN, 8443, serverHost)
	m.knowWeb("expired", workload.AppProtocol_UNKNOWN, 8443, serverHost+1)
	m.knowWeb("plain", workload.AppProtocol_UNKNOWN, 8080, serverHost)
	m.know(spokenToByTLS("changing", good), spokenToByTLS("plain", good), spokenToByTLS("expired", &l7.BackendTLS{Hostname: "outside.example", Authorities: old}))
	browser := m.browser(m.caller("shop", "client"))
	ask := func(service string, status int, logged string) {
		t.Helper()
		resp, body := fetch(t, browser, "http://"+service+"/x")
		if resp.StatusCode != status {
			t.Errorf("%s: %d %q, want %d", service, resp.StatusCode, body, status)
		}
		m.eventually("the reason in the log", func() error {
			if !strings.Contains(m.log.String(), logged) {
				return fmt.Errorf("no %q", logged)
			}
			return nil
		})
	}
	ask("changing", 200, "")
	ask("expired", 503, "certificate has expired")
	ask("plain", 503, "TLS as BackendTLSPolicy shop/plain asks for it: ") // its answer isn't TLS, if it comes before the reset that follows it
	for _, step := range []struct {
		by     *l7.BackendTLS
		status int
		logged string
	}{
		{&l7.BackendTLS{Hostname: "inside.example", Authorities: roots}, 503, "valid for outside.example, not inside.example"},
		{&l7.BackendTLS{Hostname: "outside.example", Authorities: strangers}, 503, "unknown authority"},
		{&l7.BackendTLS{Hostname: "outside.example", Invalid: "there is no ConfigMap"}, 500, "there is no ConfigMap"},
		{&l7.BackendTLS{Hostname: "outside.example", Authorities: "none"}, 500, "trusts no authority"},
		{good, 200, ""},
	} {
		m.istiod.Set(spokenToByTLS("changing", step.by))
		m.eventually(fmt.Sprint("status ", step.status), func() error {
			resp, body := fetch(t, browser, "http://changing/x")
			if resp.StatusCode != step.status {
				return fmt.Errorf("%d %q", resp.StatusCode, body)
			}
			return nil
		})
		ask("changing", step.status, step.logged)
	}
}

// Neither are bytes of whatever kind sent in plain text then, nor a mirror's copies.
func TestABackendWhosePolicyCannotBeObeyedGetsNothing(t *testing.T) {
	m := newMesh(t)
	m.hold(serverHost, "one")
	m.know(m.service("bytes", workload.AppProtocol_TCP, 9000, serverHost)...)
	copies := make(chan string, 10)
	m.serve(serverHost, echo("web"))
	for i, name := range []string{"shadow", "other"} {
		m.serve(serverHost+1+byte(i), func(http.ResponseWriter, *http.Request) { copies <- name })
		m.know(m.service(name, httpPort, 8080, serverHost+1+byte(i))...)
	}
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	mirrored := rule("/", "web")
	mirrored.Filters = &l7.Filters{}
	for _, name := range []string{"shadow", "other"} {
		mirrored.Filters.Mirrors = append(mirrored.Filters.Mirrors, &l7.Mirror{Backend: &l7.BackendRef{Service: "shop/" + name + ".shop", Port: 80}})
	}
	invalid := &l7.BackendTLS{Hostname: "outside.example", Invalid: "there is no ConfigMap"}
	m.know(httpRoute("web", "web", mirrored), spokenToByTLS("bytes", invalid), spokenToByTLS("shadow", invalid))
	client := m.caller("shop", "client")
	if conn, err := m.through(client, "bytes"); err == nil {
		conn.Close()
		t.Error("a connection comes about")
	}
	for range 5 {
		fetch(t, m.browser(client), "http://web/")
		if got := <-copies; got != "other" {
			t.Errorf("%s gets a copy", got)
		}
	}
}

// What isn't HTTP is carried within TLS too, unless it is TLS already.
func TestBytesOfAnyKindGoByTLS(t *testing.T) {
	m := newMesh(t)
	certificate, roots := certified(t, "outside.example", time.Now().Add(time.Hour))
	listener, err := tls.Listen("tcp", netip.AddrPortFrom(m.addr(serverHost), 8443).String(), &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
	m.know(m.service("bytes", workload.AppProtocol_TCP, 8443, serverHost)...)
	m.know(m.service("auto", workload.AppProtocol_TLS, 8443, serverHost)...)
	m.know(m.service("broken", workload.AppProtocol_TCP, 8443, serverHost)...)
	by := &l7.BackendTLS{Hostname: "outside.example", Authorities: roots}
	m.know(spokenToByTLS("bytes", by), spokenToByTLS("auto", by), spokenToByTLS("broken", &l7.BackendTLS{Hostname: "x.example", Authorities: roots}))
	client := m.caller("shop", "client")
	talk := func(conn net.Conn) string {
		defer conn.Close()
		_, _ = io.WriteString(conn, "\x00hello")
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		text, _ := io.ReadAll(conn)
		return string(text)
	}
	conn, err := m.through(client, "bytes")
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(conn); got != "\x00hello" {
		t.Errorf("echoed %q", got)
	}
	if conn, err = m.through(client, "auto"); err != nil {
		t.Fatal(err)
	}
	if got := talk(tls.Client(conn, &tls.Config{InsecureSkipVerify: true})); got != "\x00hello" { // whose it is plays no part here
		t.Errorf("echoed within the client's own TLS %q", got)
	}
	if conn, err := m.through(client, "broken"); err == nil {
		conn.Close()
		t.Error("a server that isn't proven is spoken to")
	}
}

// A connection that is open when a policy comes, changes or goes would go on as it shouldn't.
func TestOpenConnectionsAreCutWhenTheirBackendIsSpokenToOtherwise(t *testing.T) {
	m := newMesh(t)
	m.hold(serverHost, "one")
	m.hold(serverHost+1, "two")
	for i, name := range []string{"one", "two"} {
		m.know(m.service(name, workload.AppProtocol_TCP, 9000, serverHost+byte(i))...)
	}
	client := m.caller("shop", "client")
	conn, _ := m.held(client, "one")
	other, _ := m.held(client, "two")
	_, roots := certified(t, "outside.example", time.Now().Add(time.Hour))
	m.know(spokenToByTLS("one", &l7.BackendTLS{Hostname: "outside.example", Authorities: roots}))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes come, %v; want the end", n, err)
	}
	if _, err := io.WriteString(other, "x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Errorf("another service's connection: %v", err)
	}
}
