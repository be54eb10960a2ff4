package hbone

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// Our client with a server that is somebody else's, over TLS.
func TestOurClientWithAnotherServer(t *testing.T) {
	b := newBed(t)
	l := listen(t)
	asked := make(chan *http.Request, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.Header().Set("baggage", "service.name=other")
		w.WriteHeader(http.StatusOK)
		control := http.NewResponseController(w)
		_ = control.Flush()
		_, _ = io.Copy(flushing{w, control}, r.Body)
	})
	server := &http.Server{Handler: handler, TLSConfig: mtls.Policy{}.ServerConfig(b.server), Protocols: onlyHTTP2()}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(l, "", "") })
	target := b.target()
	target.Addr = l.Addr().(*net.TCPAddr).AddrPort()
	request := b.request()
	request.Forwarded = Forwarded{For: netip.MustParseAddrPort("10.9.8.7:6"), Host: "cart"}
	s, err := connect(b.pool, target, request)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Method != http.MethodConnect || r.Host != "10.0.0.1:80" || r.Header.Get("Forwarded") != `for="10.9.8.7:6";host=cart` ||
		r.Header.Get("Traceparent") != request.Trace.String() {
		t.Errorf("the server was asked for %+v", r)
	}
	if s.Baggage != (Baggage{Service: "other"}) {
		t.Errorf("the server's baggage is %+v", s.Baggage)
	}
	app, inner := tcpPair(t)
	join(s, inner)
	echo(t, app)
	b.onNear(b.pool.Close)
	_ = server.Close()
	serving.Wait()
}

func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	return p
}

type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	_ = f.control.Flush()
	return n, err
}

// echo sends content both ways at once and checks it.
func echo(t *testing.T, c *net.TCPConn) {
	t.Helper()
	content := noise(16<<20, 6)
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := c.Write(content); err != nil {
			t.Error(err)
		}
		_ = c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("echoed %d bytes, %v, want %d", len(got), err, len(content))
	}
	writer.Wait()
	_ = c.Close()
}

// Our server with a client that is somebody else's, over TLS.
func TestAnotherClientWithOurServer(t *testing.T) {
	b := newBed(t)
	b.onConnect(func(in *Incoming) {
		if in.Request.Authority.Host() == "refused.example" {
			in.Refuse(503)
			return
		}
		s, err := in.Accept(Baggage{Service: "ours"})
		if err != nil {
			t.Error(err)
			return
		}
		app, inner := tcpPair(t)
		joinHere(s, inner, make(chan relay.Result, 1))
		b.accepts.Go(func() {
			_, _ = io.Copy(app, app)
			_ = app.Close()
		})
	})
	transport := &http.Transport{
		TLSClientConfig: mtls.Policy{}.ClientConfig(b.client, []identity.Workload{b.server.Identity}), Protocols: onlyHTTP2(),
	}
	defer transport.CloseIdleConnections()
	ask := func(authority string, body io.Reader) *http.Response {
		t.Helper()
		r := &http.Request{
			Method: http.MethodConnect, Host: authority, Header: http.Header{}, Body: io.NopCloser(body),
			URL: &url.URL{Scheme: "https", Host: b.listener.Addr().String()},
		}
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	content := noise(16<<20, 7)
	response := ask("10.0.0.1:80", bytes.NewReader(content))
	got, err := io.ReadAll(response.Body)
	if response.StatusCode != 200 || response.Header.Get("baggage") != "service.name=ours" || err != nil || !bytes.Equal(got, content) {
		t.Errorf("status %d, baggage %q, %d bytes, %v", response.StatusCode, response.Header.Get("baggage"), len(got), err)
	}
	_ = response.Body.Close()
	response = ask("refused.example:80", http.NoBody)
	if response.StatusCode != 503 {
		t.Errorf("status %d, want 503", response.StatusCode)
	}
	_ = response.Body.Close()
	if b.tunnels() != 1 {
		t.Errorf("%d tunnels", b.tunnels())
	}
}

// HBONE is TLS 1.3 with h2; what is less gets no tunnel.
func TestLessThanHBONEIsRefused(t *testing.T) {
	for name, weaken := range map[string]func(*tls.Config){
		"no ALPN":        func(c *tls.Config) { c.NextProtos = nil },
		"http/1.1":       func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			config := mtls.Policy{}.ClientConfig(b.client, []identity.Workload{b.server.Identity})
			weaken(config)
			conn, err := tls.Dial("tcp", b.listener.Addr().String(), config)
			if err == nil { // with TLS 1.3 a client learns of a refusal when it reads
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if err == nil {
				t.Error("the server served it")
			}
			b.reported(StageTLS, "")
		})
	}
}

func TestIdentityIsTheCertificates(t *testing.T) {
	b := newBed(t)
	nobody := b.ca.Issue(testca.Spec{URIs: []*url.URL{{Scheme: "https", Host: "example.com"}}})
	config := mtls.Policy{}.ClientConfig(nobody, []identity.Workload{b.server.Identity})
	conn, err := tls.Dial("tcp", b.listener.Addr().String(), config)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil {
		t.Error("a certificate without an identity got a tunnel")
	}
}
