package spans

import (
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func someSpans() *tracepb.TracesData {
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "outbound"}, {Name: "inbound"}}}}}}}
}

func names(request *collectorpb.ExportTraceServiceRequest) (list []string) {
	for _, span := range request.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans() {
		list = append(list, span.GetName())
	}
	return list
}

// traceService is a collector as the official service definition has it.
type traceService struct {
	collectorpb.UnimplementedTraceServiceServer
	answers chan error // for each call; then success
	seen    chan string
}

func (s *traceService) Export(ctx context.Context, request *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.seen <- fmt.Sprint(names(request), md.Get("authorization"))
	select {
	case err := <-s.answers:
		return nil, err
	default:
		return &collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "one is enough"}}, nil
	}
}

func collector(t *testing.T, cfg CollectorConfig) *Collector {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	c, err := NewCollector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestCollectorByGRPC(t *testing.T) {
	service := &traceService{answers: make(chan error, 9), seen: make(chan string, 9)}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, service)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	for _, zip := range []bool{false, true} {
		c := collector(t, CollectorConfig{GRPC: true, URL: "http://" + l.Addr().String(), Gzip: zip, Headers: map[string]string{"authorization": "Bearer x"}})
		service.answers <- status.Error(codes.Unavailable, "starting")
		refused, err := c.Export(t.Context(), someSpans())
		if err != nil || refused != 1 || len(service.seen) != 2 {
			t.Errorf("gzip %v: refused %d, %v, in %d attempts; want 1 in 2 attempts", zip, refused, err, len(service.seen))
		}
		for range 2 {
			if got := <-service.seen; got != "[outbound inbound] [Bearer x]" {
				t.Errorf("gzip %v: the collector got %s", zip, got)
			}
		}
		service.answers <- status.Error(codes.PermissionDenied, "who are you")
		if _, err := c.Export(t.Context(), someSpans()); err == nil || !strings.Contains(err.Error(), "who are you") || len(service.seen) != 1 {
			t.Errorf("gzip %v: %v, want the refusal, after one attempt", zip, err)
		}
		<-service.seen
	}
}

func TestCollectorByHTTPS(t *testing.T) {
	calls := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var z *gzip.Reader
			if z, err = gzip.NewReader(strings.NewReader(string(body))); err == nil {
				body, err = io.ReadAll(z)
			}
		}
		var request collectorpb.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &request) != nil || len(names(&request)) != 2 {
			t.Errorf("body of %d bytes: %v", len(body), err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("X-Key") != "k" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		answer, _ := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
		_, _ = w.Write(answer)
	}))
	defer server.Close()
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, zip := range []bool{false, true} {
		c := collector(t, CollectorConfig{URL: server.URL + "/v1/traces", RootCA: root, Gzip: zip, Headers: map[string]string{"x-key": "k"}})
		if refused, err := c.Export(t.Context(), someSpans()); err != nil || refused != 0 {
			t.Errorf("gzip %v: refused %d, %v", zip, refused, err)
		}
	}
	if calls != 3 {
		t.Errorf("%d calls, want 3: one was tried again", calls)
	}
	stranger := collector(t, CollectorConfig{URL: server.URL, Timeout: time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := stranger.Export(ctx, someSpans()); err == nil {
		t.Error("a collector whose certificate isn't known was trusted")
	}
}

func TestCollectorThatRefusesIsNotAskedAgain(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls++
		http.Error(w, "bad data", http.StatusBadRequest)
	}))
	defer server.Close()
	c := collector(t, CollectorConfig{URL: server.URL})
	if _, err := c.Export(t.Context(), someSpans()); err == nil || !strings.Contains(err.Error(), "bad data") || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestWrongCollectors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, cfg := range map[string]CollectorConfig{
		"want http://":       {URL: "collector:4317"},
		"no certificate":     {URL: "https://c:4317", RootCA: empty},
		"root certificates":  {URL: "https://c:4317", RootCA: "/nowhere"},
		"client certificate": {URL: "https://c:4317", ClientCert: "/nowhere"},
	} {
		if c, err := NewCollector(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want an error with %q", cfg, c, err, want)
		}
	}
}

func FuzzRefusedSpans(f *testing.F) {
	for _, answer := range []*collectorpb.ExportTraceServiceResponse{{}, {PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: 300, ErrorMessage: "busy"}}} {
		text, err := proto.Marshal(answer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, answer []byte) {
		got := refusedSpans(answer)
		var message collectorpb.ExportTraceServiceResponse
		if proto.Unmarshal(answer, &message) != nil {
			return
		}
		// Several values of the field would be merged; a collector sends one.
		if want := message.GetPartialSuccess().GetRejectedSpans(); want == int64(got) || got == 0 || want > maxBatch {
			return
		}
		if again, err := proto.Marshal(&message); err == nil && refusedSpans(again) != int(message.GetPartialSuccess().GetRejectedSpans()) {
			t.Errorf("%x: %d, want %d", again, refusedSpans(again), message.GetPartialSuccess().GetRejectedSpans())
		}
	})
}
