package daemon

import (
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

func TestTakenPortOfAnOwnServerPreventsTheStart(t *testing.T) {
	m := newMesh(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for server, take := range map[string]func(*config.Listen, string){
		"administration": func(l *config.Listen, addr string) { l.Admin = addr },
		"metrics":        func(l *config.Listen, addr string) { l.Metrics = addr },
		"readiness":      func(l *config.Listen, addr string) { l.Ready = addr },
	} {
		t.Run(server, func(t *testing.T) {
			cfg := m.config(m.server)
			take(&cfg.Listen, taken.Addr().String())
			err := serve(drain.New(time.Second), cfg, "test", &logBuffer{})
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "server of "+server) {
				t.Errorf("it begins with %v", err)
			}
		})
	}
}

func TestMetricsAreCompressed(t *testing.T) {
	m := newMesh(t)
	m.up(m.server)
	for _, encoding := range []string{"gzip", "zstd", "br", "deflate"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.server.node.server("metrics")+"/stats/prometheus", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", encoding)
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if got := response.Header.Get("Content-Encoding"); got != encoding {
			t.Errorf("asked for %s, got %q", encoding, got)
		}
		if encoding == "gzip" {
			if text := gunzip(t, response.Body); !strings.Contains(text, `istio_build{component="ztunnel",tag="test"} 1`) {
				t.Errorf("the page has no istio_build:\n%s", text)
			}
		}
		response.Body.Close()
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func gunzip(t *testing.T, from io.Reader) string {
	t.Helper()
	reader, err := gzip.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Levels can be changed while ztunnel runs, of a single scope too, and put back.
func TestLogLevelsChangeWhileConnectionsFlow(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"RUST_LOG=info"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	level := func(query string) {
		t.Helper()
		response, err := http.Post("http://"+m.server.node.server("administration")+"/logging?"+query, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
			t.Fatalf("%s is answered %s: %s", query, response.Status, text)
		}
	}
	lines := func(words string) int { return strings.Count(m.server.node.log.String(), words) }
	calls := 0
	call := func() {
		t.Helper()
		mustCall(t, m.client, to).Close()
		calls++
		m.server.node.eventually("count the connection", func() bool {
			return m.server.node.metric("istio_tcp_connections_closed_total", `reporter="destination"`) == float64(calls)
		})
	}
	for _, step := range []struct {
		query            string
		opened, complete int // lines so far
	}{{"level=info", 0, 1}, {"level=access=debug", 1, 2}, {"level=access=off", 1, 2}, {"reset", 1, 3}, {"level=error", 1, 3}} {
		level(step.query)
		call()
		m.server.node.eventually("log as with "+step.query, func() bool {
			return lines("\tconnection opened\t") == step.opened && lines("\tconnection complete\t") == step.complete
		})
	}
}

// The first connection of a pod need not wait for a certificate. Pods of other nodes are no concern of ours.
func TestCertificatesAreFetchedBeforeTheFirstConnection(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.node.eventually("have the pod's certificate", func() bool {
		_, text := m.server.node.get("administration", "/config_dump")
		return contains(text, `"identity": "spiffe://cluster.local/ns/demo/sa/server"`) && contains(text, `"state": "Available"`)
	})
	if _, text := m.server.node.get("administration", "/config_dump"); contains(text, `"identity": "spiffe://cluster.local/ns/demo/sa/client"`) {
		t.Error("the node has a certificate of another node's pod")
	}
}
