package daemon

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// collector takes spans of requests, and of their tries.
func collector(t *testing.T) (url string, spans, tries chan *tracepb.Span) {
	t.Helper()
	spans, tries = make(chan *tracepb.Span, 100), make(chan *tracepb.Span, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var batch collectorpb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &batch); err != nil {
			t.Error(err)
		}
		for _, resource := range batch.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					switch name := span.GetName(); {
					case strings.HasPrefix(name, "GET"): // and not a connection
						spans <- span
					case strings.HasPrefix(name, "router "):
						tries <- span
					}
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1/traces", spans, tries
}

// next waits for a span.
func next(t *testing.T, spans <-chan *tracepb.Span) *tracepb.Span {
	t.Helper()
	select {
	case span := <-spans:
		return span
	case <-time.After(patience):
		t.Fatal("no span came")
		return nil
	}
}

// said are the attributes of a span.
func said(span *tracepb.Span) map[string]any {
	all := map[string]any{}
	for _, each := range span.GetAttributes() {
		if text, ok := each.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
			all[each.GetKey()] = text.StringValue
		} else {
			all[each.GetKey()] = each.GetValue().GetIntValue()
		}
	}
	return all
}

// Each try of a request is a span below the request's, which its server is told.
func TestEachTryIsASpanOfItsOwn(t *testing.T) {
	url, spans, tries := collector(t)
	m := newMesh(t, func(c *config.Config) {
		c.Tracing = settings.Tracing{On: true, Endpoint: url, Timeout: time.Second, Resource: map[string]string{"service.name": "wp"}}
	})
	toldOf := make(chan string, 3)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		toldOf <- strings.Split(r.Header.Get("Traceparent"), "-")[2]
		if w.Header().Set("Grpc-Status", "5"); len(toldOf) < 3 {
			w.WriteHeader(503)
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 2, Statuses: []uint32{503}}
	m.know(httpRoute("web", "web", again))
	if resp, text := fetch(t, m.browser(m.caller("shop", "client")), "http://web/x", func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") }); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	request := next(t, spans)
	whole := said(request)
	for key, want := range map[string]any{"rpc.grpc.status_code": "5", "tulle.route": "HTTPRoute/shop/web", "http.response.status_code": int64(200), "url.path": "/x"} {
		if whole[key] != want {
			t.Errorf("the request says of %s %v, want %v", key, whole[key], want)
		}
	}
	for i := range 3 {
		try, own := next(t, tries), <-toldOf
		if got := hex.EncodeToString(try.GetSpanId()); got != own || !bytes.Equal(try.GetParentSpanId(), request.GetSpanId()) || !bytes.Equal(try.GetTraceId(), request.GetTraceId()) {
			t.Errorf("try %d is %v, want %s below %x", i, try, own, request.GetSpanId())
		}
		want := map[string]any{"peer.service": "web.shop", "http.response.status_code": int64(503), "response_flags": "-", "http.request.method": "GET"}
		if i == 2 {
			want["http.response.status_code"] = int64(200)
		}
		if i > 0 {
			want["retry.count"] = int64(i)
		}
		got := said(try)
		for key, value := range want {
			if got[key] != value {
				t.Errorf("try %d says of %s %v, want %v", i, key, got[key], value)
			}
		}
		if _, is := got["retry.count"]; is && i == 0 {
			t.Error("the first try is a retry")
		}
		if try.GetName() != "router web.shop egress" || try.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || (try.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR) != (i < 2) {
			t.Errorf("try %d: %v", i, try)
		}
	}
	if request.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
		t.Errorf("the request is %v", request)
	}
}

func TestARequestIsASpanBetweenItsClientsAndItsServers(t *testing.T) {
	url, spans, tries := collector(t)
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
		{name: "B3, undecided", b3id: id}, {name: "B3, for debugging", b3id: id},
	}
	wants := map[string]string{} // the client's span, by the one that the server is told
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
				set("X-B3-Sampled", map[string]string{"B3": "1"}[ask.name])
				set("X-B3-Flags", map[string]string{"B3, for debugging": "1"}[ask.name])
			}
			if set("Tracestate", "a=b"); ask.name == "none" {
				set("Traceparent", "00-0-0-0")
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
		if got := server.Get("X-B3-Sampled"); ask.b3id != "" && got != "1" {
			t.Errorf("%s: the server is told that it is recorded by %q", ask.name, got)
		}
		if got := server.Get("Tracestate"); (got != "") != (ask.name == "W3C") {
			t.Errorf("%s: the server is told of a state %q", ask.name, got)
		}
		if got := server.Get("B3"); ask.b3 != "" && got != id+"-"+own+"-1" {
			t.Errorf("%s: the server is told %q", ask.name, got)
		}
	}
	fetch(t, c, "http://web/x", func(r *http.Request) { r.Header.Set("Traceparent", "00-"+id+"-"+span+"-00") })
	if got := (<-told).Get("Traceparent"); !strings.HasSuffix(got, "-00") {
		t.Errorf("a trace that isn't recorded is told as %q", got)
	}
	for _, ask := range []http.Header{
		{"B3": {"0"}}, {"X-B3-Sampled": {"0"}}, {"B3": {id + "-" + span + "-0"}}, {"X-B3-Traceid": {id}, "X-B3-Spanid": {span}, "X-B3-Sampled": {"false"}},
	} {
		fetch(t, c, "http://web/x", func(r *http.Request) { r.Header = ask.Clone() })
		if got := (<-told).Get("Traceparent"); !strings.HasSuffix(got, "-00") {
			t.Errorf("a trace that isn't to be recorded, by %v, is told as %q", ask, got)
		}
	}
	requests := map[string]string{} // the client's span, by the request's
	for range asks {
		got := next(t, spans)
		requests[hex.EncodeToString(got.GetSpanId())] = hex.EncodeToString(got.GetParentSpanId())
	}
	for range asks {
		got := next(t, tries)
		own := hex.EncodeToString(got.GetSpanId())
		above, is := requests[hex.EncodeToString(got.GetParentSpanId())]
		if want, ok := wants[own]; !ok || !is || above != want {
			t.Errorf("try %v of a request below %q, want one of %v", got, above, wants)
		}
		delete(wants, own)
	}
}

// Whether a request is recorded goes by the sampler: whether the client has a say in it, and else whether all are, or none.
func TestTheSamplerSaysWhatIsRecorded(t *testing.T) {
	const recorded, not = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, test := range []struct {
		sampler, argument            string
		begun, ofRecorded, ofTheRest string // the flags that the server is told
	}{
		{"", "", "01", "01", "00"}, {"parentbased_always_off", "", "00", "01", "00"}, {"parentbased_traceidratio", "0", "00", "01", "00"},
		{"always_on", "", "01", "01", "01"}, {"always_off", "", "00", "00", "00"}, {"traceidratio", "0", "00", "00", "00"}, {"traceidratio", "1", "01", "01", "01"},
	} {
		url, spans, _ := collector(t)
		m := newMesh(t, func(c *config.Config) {
			c.Tracing = settings.Tracing{
				On: true, Endpoint: url, Timeout: time.Second, Resource: map[string]string{"service.name": "wp"}, Sampler: test.sampler, SamplerArgument: test.argument,
			}
		})
		told := make(chan string, 1)
		m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) { told <- r.Header.Get("Traceparent") })
		m.know(m.service("web", httpPort, 8080, serverHost)...)
		c := m.browser(m.caller("shop", "client"))
		wanted := 0
		for client, want := range map[string]string{"": test.begun, recorded: test.ofRecorded, not: test.ofTheRest} {
			fetch(t, c, "http://web/x", func(r *http.Request) {
				if client != "" {
					r.Header.Set("Traceparent", client)
				}
			})
			got := <-told
			if !strings.HasSuffix(got, "-"+want) || client != "" && !strings.HasPrefix(got, client[:36]) {
				t.Errorf("%s %s: of a client that says %q the server is told %q, want flags %s", test.sampler, test.argument, client, got, want)
			}
			if want == "01" {
				wanted++
			}
		}
		m.drain.Start("no more requests")
		m.stop()
		m.ended <- nil // for the end of the test
		if len(spans) != wanted {
			t.Errorf("%s %s: %d spans, want %d", test.sampler, test.argument, len(spans), wanted)
		}
	}
}

// Who reads B3 finds there what W3C's fields say, and what comes in either form is understood. Of both the W3C's counts, and of B3's the single field.
func TestB3IsReadInAllItsForms(t *testing.T) {
	const id, other, span, above = "0af7651916cd43dd8448eb211c80319c", "11111111111111111111111111111111", "b7ad6b7169203331", "2222222222222222"
	url, spans, tries := collector(t)
	m := newMesh(t, func(c *config.Config) {
		c.Tracing = settings.Tracing{
			On: true, Endpoint: url, Timeout: time.Second, Resource: map[string]string{"service.name": "wp"}, Sampler: "parentbased_always_off",
		}
	})
	told := make(chan http.Header, 1)
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) { told <- r.Header })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	tests := []struct {
		name          string
		fields        map[string]string
		trace, parent string
	}{
		{"true", map[string]string{"X-B3-Traceid": id, "X-B3-Spanid": span, "X-B3-Sampled": "true"}, id, span},
		{"short", map[string]string{"X-B3-Traceid": id[16:], "X-B3-Spanid": span, "X-B3-Sampled": "1"}, strings.Repeat("0", 16) + id[16:], span},
		{"single, short", map[string]string{"B3": id[16:] + "-" + span + "-1"}, strings.Repeat("0", 16) + id[16:], span},
		{"single, with the span above", map[string]string{"B3": id + "-" + span + "-1-" + above}, id, span},
		{"single, for debugging", map[string]string{"B3": id + "-" + span + "-d"}, id, span},
		{"single before several", map[string]string{"B3": id + "-" + span + "-1", "X-B3-Traceid": other, "X-B3-Spanid": above, "X-B3-Sampled": "0"}, id, span},
		{"W3C before B3", map[string]string{"Traceparent": "00-" + id + "-" + span + "-01", "B3": other + "-" + above + "-0"}, id, span},
		{"no trace, but a decision", map[string]string{"B3": "1"}, "", ""},
	}
	var servers []http.Header
	for _, test := range tests {
		fetch(t, c, "http://web/x", func(r *http.Request) {
			for name, value := range test.fields {
				r.Header.Set(name, value)
			}
		})
		servers = append(servers, <-told)
	}
	all := map[string]*tracepb.Span{} // by their ids
	for range tests {
		request, try := next(t, spans), next(t, tries)
		all[hex.EncodeToString(request.GetSpanId())], all[hex.EncodeToString(try.GetSpanId())] = request, try
	}
	for i, test := range tests {
		server := servers[i]
		parts := strings.Split(server.Get("Traceparent"), "-")
		tryID := parts[2]
		requestID := hex.EncodeToString(all[tryID].GetParentSpanId())
		request := all[requestID]
		if got := hex.EncodeToString(request.GetTraceId()); test.trace != "" && got != test.trace || got != parts[1] || parts[3] != "01" || tryID == requestID {
			t.Errorf("%s: the trace is %s, the server is told %q, by a try of %s", test.name, got, parts, requestID)
		}
		if got := hex.EncodeToString(request.GetParentSpanId()); got != test.parent {
			t.Errorf("%s: the request is below %q, want %q", test.name, got, test.parent)
		}
		if server.Get("X-B3-Traceid") != "" && (server.Get("X-B3-Spanid") != tryID || server.Get("X-B3-Parentspanid") != requestID || server.Get("X-B3-Sampled") != "1") {
			t.Errorf("%s: the server is told %v, want %s below %s", test.name, server, tryID, requestID)
		}
		if got := server.Get("B3"); got != "" && got != parts[1]+"-"+tryID+"-1" {
			t.Errorf("%s: the server is told %q", test.name, got)
		}
	}
}
