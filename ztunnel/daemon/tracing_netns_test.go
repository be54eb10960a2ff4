package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/settings"
)

// spanCollector takes spans by HTTP.
type spanCollector struct {
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by name
}

// ServeHTTP implements http.Handler.
func (c *spanCollector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var traces tracepb.TracesData
	if err != nil || proto.Unmarshal(body, &traces) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range traces.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans() {
		c.spans[span.GetName()] = span
	}
}

func TestBothNodesSendSpansOfOneTrace(t *testing.T) {
	collector := &spanCollector{spans: map[string]*tracepb.Span{}}
	server := httptest.NewServer(collector)
	defer server.Close()
	m := newMesh(t)
	m.tracing = settings.Tracing{On: true, Endpoint: server.URL + "/v1/traces", Timeout: time.Second, Resource: map[string]string{"service.name": "ztunnel"}}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	_, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, n := range []*node{m.client.node, m.server.node} {
		n.waitLog("connection complete")
		n.drain.Force("test over") // sends what waits
		if err := n.wait(); err != nil {
			t.Fatal(err)
		}
	}
	collector.mu.Lock()
	defer collector.mu.Unlock()
	outbound, inbound := collector.spans["outbound"], collector.spans["inbound"]
	if outbound == nil || inbound == nil {
		t.Fatalf("spans %v, want outbound and inbound", collector.spans)
	}
	if string(outbound.GetTraceId()) != string(inbound.GetTraceId()) || string(inbound.GetParentSpanId()) != string(outbound.GetSpanId()) {
		t.Errorf("the server's span isn't below the client's:\n%v\n%v", outbound, inbound)
	}
}
