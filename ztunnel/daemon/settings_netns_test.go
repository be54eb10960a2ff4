package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// announced is what a peer says at the beginning of a tunnel: its settings, and what it adds to the connection's window.
type announced struct {
	settings map[http2.SettingID]uint32
	window   uint32
}

func readAnnounced(t *testing.T, conn io.ReadWriter) announced {
	t.Helper()
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	got := announced{settings: map[http2.SettingID]uint32{}, window: 1<<16 - 1}
	for seen := 0; seen < 2; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if frame.IsAck() {
				continue
			}
			seen++
			_ = frame.ForeachSetting(func(s http2.Setting) error { got.settings[s.ID] = s.Val; return nil })
		case *http2.WindowUpdateFrame:
			seen++
			got.window += frame.Increment
		}
	}
	return got
}

func (a announced) check(t *testing.T, who string, want map[http2.SettingID]uint32) {
	t.Helper()
	for id, value := range want {
		if a.settings[id] != value {
			t.Errorf("the %s announces %s = %d, want %d", who, id, a.settings[id], value)
		}
	}
	if a.window < 4<<20 {
		t.Errorf("the %s lets %d bytes of a connection come, want at least what is configured", who, a.window)
	}
}

// What HTTP2_* say is what peers are told, on both sides. A peer that then speaks something else is told as such.
func TestTunnelsHaveTheConfiguredLimits(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"HTTP2_STREAM_WINDOW_SIZE=1048576", "HTTP2_CONNECTION_WINDOW_SIZE=4194304", "HTTP2_FRAME_SIZE=32768"}
	m.up(m.client, m.server)
	m.describe(m.outside, nil)
	m.sync()
	ours := m.ca.Credential(m.ca.Identity("demo", "outside"))
	common := map[http2.SettingID]uint32{http2.SettingInitialWindowSize: 1 << 20, http2.SettingMaxFrameSize: 1 << 15}

	raw, err := m.outside.Dial(t.Context(), netip.AddrPortFrom(m.server.v4, 15008), socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	toServer := tls.Client(raw, mtls.Policy{}.ClientConfig(ours, []identity.Workload{m.ca.Identity("demo", "server")}))
	if _, err := toServer.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	server := readAnnounced(t, toServer)
	server.check(t, "server", common)
	server.check(t, "server", map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: 200, http2.SettingMaxHeaderListSize: 64 << 10})
	if _, err := toServer.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	m.server.node.eventually("count the client's fault", func() bool {
		return m.server.node.metric("istio_tcp_connections_failed_total", `reporter="destination"`, `response_flags="H2_HANDSHAKE_FAILURE"`) == 1
	})

	l, err := m.outside.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("[::]:15008")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tunnel, answered := m.calledByClient(l, ours)
	client := readAnnounced(t, tunnel)
	client.check(t, "client", common)
	client.check(t, "client", map[http2.SettingID]uint32{http2.SettingMaxHeaderListSize: 16 << 10})
	if push, told := client.settings[http2.SettingEnablePush]; !told || push != 0 {
		t.Error("the client doesn't say that it takes no pushes")
	}
	tunnel.Close()
	if err := <-answered; err == nil {
		t.Error("the application is answered")
	}
	tunnel, answered = m.calledByClient(l, ours)
	if _, err := tunnel.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		t.Error("the application is answered")
	}
	m.client.node.eventually("count the server's fault", func() bool {
		return m.client.node.metric("istio_tcp_connections_failed_total", `reporter="source"`, `response_flags="H2_HANDSHAKE_FAILURE"`) == 1
	})
}

// calledByClient has the client call outside, and returns the tunnel there after its preface, and what the call comes to.
func (m *mesh) calledByClient(l *net.TCPListener, ours *mtls.Credential) (tunnel *tls.Conn, answered <-chan error) {
	m.t.Helper()
	outcome := make(chan error, 1)
	go func() {
		_, _, err := m.client.call(netip.AddrPortFrom(m.outside.v4, 8080))
		outcome <- err
	}()
	l.SetDeadline(time.Now().Add(patience))
	raw, err := l.AcceptTCP()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(patience))
	tunnel = tls.Server(raw, mtls.Policy{}.ServerConfig(ours))
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(tunnel, preface); err != nil || string(preface) != http2.ClientPreface {
		m.t.Fatalf("the client begins with %q, %v", preface, err)
	}
	return tunnel, outcome
}

// A peer that is no ztunnel of ours, and asks by Go's own HTTP/2, is served and told who answers, unless that is switched off.
func TestForeignClientsAreToldWhoAnswers(t *testing.T) {
	for setting, want := range map[string]string{
		"ENABLE_RESPONSE_BAGGAGE=true":  "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=server,service.name=server,service.version=v1",
		"ENABLE_RESPONSE_BAGGAGE=false": "",
	} {
		t.Run(setting, func(t *testing.T) {
			m := newMesh(t)
			m.env = []string{setting}
			m.up(m.server)
			m.server.serve(t, 8080)
			protocols := new(http.Protocols)
			protocols.SetHTTP2(true)
			transport := &http.Transport{
				Protocols:       protocols,
				TLSClientConfig: mtls.Policy{}.ClientConfig(m.ca.Credential(m.ca.Identity("demo", "outside")), []identity.Workload{m.ca.Identity("demo", "server")}),
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return m.outside.Dial(ctx, netip.AddrPortFrom(m.server.v4, 15008), socket.DialConfig{})
				},
			}
			defer transport.CloseIdleConnections()
			response, err := transport.RoundTrip(&http.Request{
				Method: http.MethodConnect, Host: "10.91.0.2:8080", Header: http.Header{}, URL: &url.URL{Scheme: "https", Host: "10.91.0.2:15008"},
				Body: io.NopCloser(strings.NewReader("hello")),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if text, err := io.ReadAll(response.Body); response.StatusCode != 200 || err != nil || string(text) != "10.91.0.3\nhello" {
				t.Errorf("answered %d with %q, %v", response.StatusCode, text, err)
			}
			if got := response.Header.Get("baggage"); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		})
	}
}

func TestTunnelsHaveAsManyStreamsAsConfigured(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"POOL_MAX_STREAMS_PER_CONNECTION=2", "ZTUNNEL_WORKER_THREADS=1"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	const calls = 6
	for range calls {
		mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080))
	}
	m.server.node.eventually("log all connections", func() bool { return strings.Count(m.server.node.log.String(), "\tconnection opened\t") == calls })
	streams := map[string]int{} // by the tunnel's address
	for line := range strings.Lines(m.server.node.log.String()) {
		if strings.Contains(line, "connection opened") {
			_, rest, _ := strings.Cut(line, "src.addr=")
			from, _, _ := strings.Cut(rest, " ")
			streams[from]++
		}
	}
	for tunnel, n := range streams {
		if n > 2 {
			t.Errorf("%d streams on the tunnel from %s, want at most 2", n, tunnel)
		}
	}
}

// Log lines can be JSON, decisions of policies can be told, and what is set in vain is said at the start.
func TestLogsAreAsConfigured(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"LOG_FORMAT=json", "RUST_LOG=info", "AUTHZ_POLICY_INFO_LOGGING=true", "TLS12_ENABLED=true"}
	tried := strict(security.Scope_NAMESPACE)
	tried.DryRun = true
	m.istiod.Set(tried)
	m.describe(m.server, nil)
	capturePod(t, m.server.Namespace)
	n := startNode(t, m.config(m.server))
	n.enrol(m.server)
	m.server.serve(t, 8080)
	mustCall(t, m.outside, netip.AddrPortFrom(m.server.v4, 8080)).Close()
	n.waitLog(`"scope":"access"`, `"message":"connection complete"`, `"src.addr":"10.91.0.3:`, `"dst.addr":"10.91.0.2:8080"`, `"direction":"inbound"`, `"bytes_sent":15`)
	n.waitLog(`"scope":"rbac"`, `"level":"info"`, `"src":"10.91.0.3:`, `"allowed":true`, "demo/strict")
	n.waitLog(`"level":"warn"`, "setting refused", "TLS12_ENABLED", "TLS 1.3")
	for line := range strings.Lines(n.log.String()) {
		if strings.HasSuffix(line, "\n") && !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

// A service that passes connections through is reached where the client dialled, whatever endpoints it has.
func TestPassthroughServicesAreReachedWhereTheClientDialled(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(dualWeb(func(s *workload.Service) {
		s.LoadBalancing = &workload.LoadBalancing{Mode: workload.LoadBalancing_PASSTHROUGH}
	}))
	m.up(m.client, m.server)
	m.describe(m.server, endpointOf(webHost))
	m.sync()
	m.client.Neighbour("eth1", netip.PrefixFrom(serviceV4, 32))
	m.outside.Local(netip.PrefixFrom(serviceV4, 32))
	m.server.serve(t, 8080)
	m.outside.serve(t, 80)
	seen, conn, err := m.client.call(netip.AddrPortFrom(serviceV4, 80))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if seen != m.client.v4.String() {
		t.Errorf("the application sees %s, want the client", seen)
	}
	m.client.node.waitLog("connection complete", "dst.addr=10.96.0.1:80", `dst.service="`+webHost+`"`)
}
