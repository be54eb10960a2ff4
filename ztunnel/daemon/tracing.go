package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/mesh/spans"
)

// lastSpans is how long the end of the program waits for the collector.
const lastSpans = time.Second

// trace has spans made of connections, if that is wished, and returns what ends it.
func (z *ztunnel) trace() (end func(), err error) {
	cfg := z.cfg.Tracing
	if !cfg.On {
		return func() {}, nil
	}
	sampler, err := spans.ParseSampler(cfg.Sampler, cfg.SamplerArgument)
	if err != nil {
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %w", err)
	}
	collector, err := spans.NewCollector(spans.CollectorConfig{
		GRPC: cfg.GRPC, URL: cfg.Endpoint, Headers: cfg.Headers, Timeout: cfg.Timeout, Gzip: cfg.Gzip,
		RootCA: cfg.RootCA, ClientCert: cfg.ClientCert, ClientKey: cfg.ClientKey,
	})
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_*: %w", err)
	}
	s := spans.New(spans.Config{Sampler: sampler, Export: collector.Export, Resource: cfg.Resource, Log: z.log.With("scope", "spans")})
	s.Register(z.reg)
	z.metrics.Trace(s.Tracer())
	z.log.Info("spans are sent", "to", cfg.Endpoint)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			z.log.Warn("the last spans were lost", "err", err)
		}
		collector.Close()
	}, nil
}
