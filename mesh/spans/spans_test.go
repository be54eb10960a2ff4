package spans

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	sampledTrace   = begun("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	unsampledTrace = begun("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
)

func begun(header string) trace.Context {
	c, ok := trace.Parse(header)
	if !ok {
		panic(header)
	}
	return c
}

func sampler(t testing.TB, name, argument string) Sampler {
	t.Helper()
	s, err := ParseSampler(name, argument)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connection is one through a tunnel, as one of its ends knows it.
func connection(t testing.TB, reporter telemetry.Reporter, c trace.Context) telemetry.Connection {
	t.Helper()
	account := func(name string) identity.Workload {
		id, err := identity.New("cluster.local", "shop", name)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	return telemetry.Connection{
		Reporter:    reporter,
		Source:      telemetry.Peer{Pod: "frontend-1", Namespace: "shop", Cluster: "Kubernetes", Identity: account("frontend")},
		Destination: telemetry.Peer{CanonicalName: "cart", Namespace: "shop", Identity: account("cart")},
		Service:     "cart.shop.svc.cluster.local", MTLS: true, Trace: c,
		Src: netip.MustParseAddrPort("10.0.0.1:43210"), Dst: netip.MustParseAddrPort("10.0.1.2:15008"), HBONEDst: "10.0.1.2:8080",
	}
}

// recorder is a collector in memory.
type recorder struct {
	mu      sync.Mutex
	batches []*tracepb.TracesData
	refuse  int
	err     error
	stuck   chan struct{} // Export waits for it, if not nil
}

func (r *recorder) export(ctx context.Context, traces *tracepb.TracesData) (int, error) {
	if r.stuck != nil {
		select {
		case <-r.stuck:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, traces)
	return r.refuse, r.err
}

func (r *recorder) spans() (list []*tracepb.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, batch := range r.batches {
		list = append(list, batch.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()...)
	}
	return list
}

func begin(t testing.TB, r *recorder, s Sampler) (*Spans, *telemetry.Metrics) {
	t.Helper()
	spans := New(Config{Sampler: s, Export: r.export, Resource: map[string]string{"service.name": "ztunnel"}, Log: slog.New(slog.DiscardHandler)})
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	m.Trace(spans.Tracer())
	return spans, m
}

func finish(t testing.TB, s *Spans) {
	t.Helper()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func describe(span *tracepb.Span) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %x/%x below %x, %v", span.GetName(), strings.TrimPrefix(span.GetKind().String(), "SPAN_KIND_"), span.GetTraceId(), span.GetSpanId(), span.GetParentSpanId(),
		time.Duration(span.GetEndTimeUnixNano()-span.GetStartTimeUnixNano()))
	for _, attribute := range span.GetAttributes() {
		if n := attribute.GetValue().GetIntValue(); n != 0 {
			fmt.Fprintf(&text, "\n%s=%d", attribute.GetKey(), n)
			continue
		}
		fmt.Fprintf(&text, "\n%s=%s", attribute.GetKey(), attribute.GetValue().GetStringValue())
	}
	fmt.Fprintf(&text, "\n%s %s", strings.TrimPrefix(span.GetStatus().GetCode().String(), "STATUS_CODE_"), span.GetStatus().GetMessage())
	return text.String()
}

func TestBothEndsOfAConnectionAreOneTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		spans, m := begin(t, r, sampler(t, "", ""))
		outbound := m.Open(connection(t, telemetry.Source, sampledTrace))
		inbound := m.Open(connection(t, telemetry.Destination, sampledTrace))
		inbound.Follow(func() (uint64, uint64) { return 2000, 10 })
		time.Sleep(20 * time.Millisecond)
		inbound.Close(telemetry.FlagDenied, errors.New("denied by policy shop/a"))
		outbound.Close(telemetry.FlagNone, nil)
		finish(t, spans)
		got := r.spans()
		if len(got) != 2 {
			t.Fatalf("%d spans, want 2", len(got))
		}
		own := fmt.Sprintf("%x", got[0].GetSpanId())
		for i, want := range []string{`inbound SERVER 0af7651916cd43dd8448eb211c80319c/` + own + ` below b7ad6b7169203331, 20ms
src.addr=10.0.0.1:43210
src.workload=frontend-1
src.namespace=shop
src.identity=spiffe://cluster.local/ns/shop/sa/frontend
src.cluster=Kubernetes
dst.addr=10.0.1.2:15008
dst.hbone_addr=10.0.1.2:8080
dst.service=cart.shop.svc.cluster.local
dst.workload=cart
dst.namespace=shop
dst.identity=spiffe://cluster.local/ns/shop/sa/cart
direction=inbound
bytes_sent=2000
bytes_recv=10
response_flags=DENY
ERROR denied by policy shop/a`, `outbound CLIENT 0af7651916cd43dd8448eb211c80319c/b7ad6b7169203331 below , 20ms
src.addr=10.0.0.1:43210
src.workload=frontend-1
src.namespace=shop
src.identity=spiffe://cluster.local/ns/shop/sa/frontend
src.cluster=Kubernetes
dst.addr=10.0.1.2:15008
dst.hbone_addr=10.0.1.2:8080
dst.service=cart.shop.svc.cluster.local
dst.workload=cart
dst.namespace=shop
dst.identity=spiffe://cluster.local/ns/shop/sa/cart
direction=outbound
bytes_sent=
bytes_recv=
response_flags=-
UNSET `} {
			if text := describe(got[i]); text != want {
				t.Errorf("span %d:\n%s\nwant\n%s", i, text, want)
			}
		}
		resource := r.batches[0].GetResourceSpans()[0].GetResource().GetAttributes()
		if len(resource) != 1 || resource[0].GetKey() != "service.name" || resource[0].GetValue().GetStringValue() != "ztunnel" {
			t.Errorf("resource %v", resource)
		}
	})
}

func TestRefusedConnectionsHaveSpansToo(t *testing.T) {
	r := &recorder{}
	spans, m := begin(t, r, sampler(t, "", ""))
	m.Refuse(connection(t, telemetry.Destination, trace.Context{}), telemetry.FlagTLS, errors.New("no certificate"))
	finish(t, spans)
	if got := r.spans(); len(got) != 1 || len(got[0].GetTraceId()) != 16 || got[0].GetStatus().GetMessage() != "no certificate" {
		t.Errorf("spans %v", got)
	}
}

func TestSampling(t *testing.T) {
	for _, test := range []struct {
		name, argument string
		root           bool // a trace that begins here is sampled
		parent, none   bool // an arrival with a sampled trace, and with one that isn't, has a span
	}{
		{"", "", true, true, false},
		{"always_on", "", true, true, true},
		{"always_off", "", false, false, false},
		{"traceidratio", "1", true, true, true},
		{"traceidratio", "", true, true, true},
		{"traceidratio", "0", false, false, false},
		{"traceidratio", "0.6", true, true, true}, // the id is at 0.52
		{"traceidratio", "0.5", false, false, false},
		{"parentbased_always_on", "", true, true, false},
		{"parentbased_always_off", "", false, true, false},
		{"parentbased_traceidratio", "0.5", false, true, false},
		{"parentbased_traceidratio", "0.6", true, true, false},
	} {
		s := sampler(t, test.name, test.argument)
		if got := s.root(unsampledTrace); got != test.root {
			t.Errorf("%s %s: root %v, want %v", test.name, test.argument, got, test.root)
		}
		for c, want := range map[trace.Context]bool{sampledTrace: test.parent, unsampledTrace: test.none} {
			ended := telemetry.Ended{Connection: connection(t, telemetry.Destination, c)}
			if got := s.wants(&ended); got != want {
				t.Errorf("%s %s: arrival with %s: %v, want %v", test.name, test.argument, c, got, want)
			}
			ended.Reporter = telemetry.Source
			if got := s.wants(&ended); got != (c == sampledTrace) {
				t.Errorf("%s %s: what we began with %s: %v", test.name, test.argument, c, got)
			}
		}
	}
	for _, wrong := range [][2]string{{"sometimes", ""}, {"traceidratio", "2"}, {"traceidratio", "-1"}, {"traceidratio", "NaN"}, {"parentbased_traceidratio", "x"}} {
		if s, err := ParseSampler(wrong[0], wrong[1]); err == nil {
			t.Errorf("ParseSampler(%q, %q) = %v, want an error", wrong[0], wrong[1], s)
		}
	}
}

func TestRatioSamplesItsShare(t *testing.T) {
	s := sampler(t, "traceidratio", "0.25")
	n := 0
	for range 10_000 {
		if s.root(trace.New()) {
			n++
		}
	}
	if n < 2200 || n > 2800 {
		t.Errorf("%d of 10,000 sampled, want about 2,500", n)
	}
}

func TestConnectionsNeverWaitForTheCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{stuck: make(chan struct{})}
		spans, m := begin(t, r, sampler(t, "always_on", ""))
		reg := prometheus.NewRegistry()
		spans.Register(reg)
		one := func() { m.Open(connection(t, telemetry.Source, sampledTrace)).Close(telemetry.FlagNone, nil) }
		for range maxBatch {
			one()
		}
		time.Sleep(time.Minute) // a batch is on its way, and stuck
		for range maxQueued + 100 {
			one()
		}
		if n := spans.dropped.Load(); n != 100 {
			t.Errorf("%d dropped, want 100", n)
		}
		close(r.stuck)
		finish(t, spans)
		if n := len(r.spans()); n != maxBatch+maxQueued || int(spans.sent.Load()) != n {
			t.Errorf("%d spans arrived, %d counted; want %d", n, spans.sent.Load(), maxBatch+maxQueued)
		}
		for _, batch := range r.batches {
			if n := len(batch.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()); n > maxBatch {
				t.Errorf("a batch of %d", n)
			}
		}
		one()
		if n := spans.dropped.Load(); n != 101 {
			t.Errorf("%d dropped, want the one after Close, too", n)
		}
		if families, err := reg.Gather(); err != nil || len(families) != 2 {
			t.Errorf("metrics %v, %v", families, err)
		}
	})
}

func TestCloseGivesUpOnAStuckCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{stuck: make(chan struct{})}
		spans, m := begin(t, r, sampler(t, "always_on", ""))
		m.Open(connection(t, telemetry.Source, sampledTrace)).Close(telemetry.FlagNone, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := spans.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want a time-out", err)
		}
		if spans.dropped.Load() != 1 {
			t.Errorf("%d dropped, want 1", spans.dropped.Load())
		}
	})
}

func TestAFewSpansWaitFiveSecondsForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{refuse: 1}
		spans, m := begin(t, r, sampler(t, "always_on", ""))
		for range 3 {
			m.Open(connection(t, telemetry.Source, sampledTrace)).Close(telemetry.FlagNone, nil)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := len(r.spans()); n != 0 {
			t.Errorf("%d spans after 4 s, want none", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(r.batches) != 1 || len(r.spans()) != 3 || spans.dropped.Load() != 1 || spans.sent.Load() != 2 {
			t.Errorf("after 6 s: %d batches, %d spans, %d refused", len(r.batches), len(r.spans()), spans.dropped.Load())
		}
		finish(t, spans)
	})
}

func TestWithoutSamplingNothingIsKept(t *testing.T) {
	r := &recorder{}
	spans, m := begin(t, r, sampler(t, "always_off", ""))
	m.Open(connection(t, telemetry.Source, unsampledTrace)).Close(telemetry.FlagNone, nil)
	if m.Sampled(unsampledTrace) || len(spans.queue) != 0 {
		t.Error("a span is made")
	}
	finish(t, spans)
	if len(r.batches) != 0 {
		t.Errorf("%d batches", len(r.batches))
	}
}

func BenchmarkEndedConnection(b *testing.B) {
	for _, test := range []struct {
		name, sampler string
		trace         trace.Context
	}{{"sampled", "always_on", sampledTrace}, {"not sampled", "", unsampledTrace}} {
		b.Run(test.name, func(b *testing.B) {
			spans, m := begin(b, &recorder{}, sampler(b, test.sampler, ""))
			info := connection(b, telemetry.Source, test.trace)
			b.ReportAllocs()
			for b.Loop() {
				m.Open(info).Close(telemetry.FlagNone, nil)
			}
			finish(b, spans)
		})
	}
}
