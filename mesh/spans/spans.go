// Package spans makes a span of each connection that ended, for those who trace requests across the mesh, and sends them
// to an OpenTelemetry collector (OTLP 1.x).
//
// Nobody waits for the collector: what it can't take in time is dropped and counted.
package spans

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

const (
	// maxQueued is how many spans wait for the collector, maxBatch how many go to it at once.
	maxQueued = 2048
	maxBatch  = 512
	// gather is how long the first span of a batch waits for others.
	gather = 5 * time.Second
	// tellFailures is the least time between two lines about a collector that doesn't take spans.
	tellFailures = time.Minute
)

// Config says which spans are made and who gets them. All fields are required, but for Resource.
type Config struct {
	Sampler Sampler
	// Export sends spans, and returns how many of them were refused; it may take a while.
	Export func(context.Context, *tracepb.TracesData) (refused int, err error)
	// Resource says who the sender is, such as service.name.
	Resource map[string]string
	Log      *slog.Logger
}

// Spans takes the ends of connections. Make it with New, end it with Close.
type Spans struct {
	cfg      Config
	resource *resourcepb.Resource
	queue    chan telemetry.Ended
	cancel   context.CancelFunc // ends the goroutine, though the collector keeps it waiting
	closing  chan struct{}
	closed   atomic.Bool
	done     chan struct{}

	sent, dropped atomic.Uint64
	toldAt        time.Time // only the goroutine uses it
}

// New starts the goroutine that sends.
func New(cfg Config) *Spans {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Spans{
		cfg: cfg, resource: &resourcepb.Resource{Attributes: texts(cfg.Resource)}, queue: make(chan telemetry.Ended, maxQueued),
		cancel: cancel, closing: make(chan struct{}), done: make(chan struct{}),
	}
	go s.run(ctx)
	return s
}

// Tracer is what telemetry needs of the spans.
func (s *Spans) Tracer() telemetry.Tracer {
	return telemetry.Tracer{Sampled: s.cfg.Sampler.root, Follow: s.cfg.Sampler.follow, Ended: s.offer}
}

// offer takes a connection that has ended, if its trace is sampled. It never waits.
func (s *Spans) offer(ended telemetry.Ended) {
	if !s.cfg.Sampler.wants(&ended) {
		return
	}
	if s.closed.Load() {
		s.dropped.Add(1)
		return
	}
	select {
	case s.queue <- ended:
	default:
		s.dropped.Add(1)
	}
}

// run collects batches and sends them, until Close.
func (s *Spans) run(ctx context.Context) {
	defer close(s.done)
	full := time.NewTimer(gather)
	defer full.Stop()
	var batch []*tracepb.Span
	for {
		select {
		case ended := <-s.queue:
			if batch = append(batch, span(&ended)); len(batch) == 1 {
				full.Reset(gather)
			}
			if len(batch) < maxBatch {
				continue
			}
		case <-full.C:
		case <-s.closing:
			s.flush(ctx, batch)
			return
		}
		s.send(ctx, batch)
		batch = nil
	}
}

// flush sends what waits.
func (s *Spans) flush(ctx context.Context, batch []*tracepb.Span) {
	for {
		select {
		case ended := <-s.queue:
			if batch = append(batch, span(&ended)); len(batch) == maxBatch {
				s.send(ctx, batch)
				batch = nil
			}
			continue
		default:
		}
		s.send(ctx, batch)
		return
	}
}

func (s *Spans) send(ctx context.Context, batch []*tracepb.Span) {
	if len(batch) == 0 {
		return
	}
	refused, err := s.cfg.Export(ctx, &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   s.resource,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "github.com/tulle-mesh/tulle"}, Spans: batch}},
	}}})
	if err != nil {
		refused = len(batch)
	}
	refused = min(max(refused, 0), len(batch))
	s.dropped.Add(uint64(refused))
	s.sent.Add(uint64(len(batch) - refused))
	if now := time.Now(); refused > 0 && now.Sub(s.toldAt) >= tellFailures {
		s.toldAt = now
		s.cfg.Log.Warn("the trace collector did not take spans", "spans", refused, "err", err)
	}
}

// Close sends what waits and ends the goroutine, at the latest when ctx ends.
func (s *Spans) Close(ctx context.Context) error {
	if s.closed.Swap(true) {
		return nil
	}
	defer s.cancel()
	close(s.closing)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.cancel()
		<-s.done
		return fmt.Errorf("send the last spans: %w", ctx.Err())
	}
}

// Register offers tulle_spans_sent_total and tulle_spans_dropped_total.
func (s *Spans) Register(reg prometheus.Registerer) {
	count := func(name, help string, value *atomic.Uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value.Load()) })
	}
	reg.MustRegister(
		count("tulle_spans_sent_total", "Spans that the trace collector took.", &s.sent),
		count("tulle_spans_dropped_total", "Spans lost because the trace collector was too slow, gone, or refused them.", &s.dropped),
	)
}
