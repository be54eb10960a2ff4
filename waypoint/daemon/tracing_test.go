package daemon

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// collector takes spans.
func collector(t *testing.T) (url string, spans chan *tracepb.Span) {
	t.Helper()
	spans = make(chan *tracepb.Span, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var batch collectorpb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &batch); err != nil {
			t.Error(err)
		}
		for _, resource := range batch.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					if span.GetName() == "GET" { // and not a connection
						spans <- span
					}
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1/traces", spans
}

func TestARequestIsASpanBetweenItsClientsAndItsServers(t *testing.T) {
	url, spans := collector(t)
	m := newMesh(t, func(c *config.Config) {
		c.Tracing = settings.Tracing{On: true, Endpoint: url, Timeout: time.Second, Resource: map[string]string{"service.name": "wp"}}
	})
	told := make(chan http.Header, 1)
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) { told <- r.Header })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	asks := []struct{ name, traceparent, b3id, b3 string }{
		{name: "W3C", traceparent: "00-" + id + "-" + span + "-01"}, {name: "B3", b3id: id}, {name: "B3, single", b3: id + "-" + span + "-1"}, {name: "none"},
	}
	wants := map[string]string{} // the client's span, by the server's
	for _, ask := range asks {
		fetch(t, c, "http://web/x", func(r *http.Request) {
			set := func(key, value string) {
				if value != "" {
					r.Header.Set(key, value)
				}
			}
			set("Traceparent", ask.traceparent)
			set("B3", ask.b3)
			if set("X-B3-Traceid", ask.b3id); ask.b3id != "" {
				set("X-B3-Spanid", span)
				set("X-B3-Sampled", "1")
			}
		})
		server := <-told
		parts := strings.Split(server.Get("Traceparent"), "-")
		if len(parts) != 4 || parts[3] != "01" || (ask.name != "none") != (parts[1] == id) || parts[2] == span {
			t.Fatalf("%s: the server is told %q", ask.name, server.Get("Traceparent"))
		}
		own := parts[2]
		if wants[own] = span; ask.name == "none" {
			wants[own] = ""
		}
		if got := server.Get("X-B3-Spanid"); ask.b3id != "" && got != own {
			t.Errorf("%s: the server is told %q, want %q", ask.name, got, own)
		}
		if got := server.Get("B3"); ask.b3 != "" && got != id+"-"+own+"-1" {
			t.Errorf("%s: the server is told %q", ask.name, got)
		}
	}
	fetch(t, c, "http://web/x", func(r *http.Request) { r.Header.Set("Traceparent", "00-"+id+"-"+span+"-00") })
	if got := (<-told).Get("Traceparent"); !strings.HasSuffix(got, "-00") {
		t.Errorf("a trace that isn't recorded is told as %q", got)
	}
	for range asks {
		select {
		case got := <-spans:
			own := hex.EncodeToString(got.GetSpanId())
			if want, ok := wants[own]; !ok || hex.EncodeToString(got.GetParentSpanId()) != want {
				t.Errorf("span %v, want one of %v", got, wants)
			}
			delete(wants, own)
		case <-time.After(patience):
			t.Fatalf("no spans of %v came", wants)
		}
	}
}
