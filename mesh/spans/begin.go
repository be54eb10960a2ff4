package spans

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// lastSpans is how long the end of a program waits for the collector.
const lastSpans = time.Second

// Begin has spans made as the settings say, and returns what telemetry needs of them, which is zero if there are none, and what ends it.
func Begin(cfg settings.Tracing, reg prometheus.Registerer, log *slog.Logger) (tracer telemetry.Tracer, end func(), err error) {
	if !cfg.On {
		return telemetry.Tracer{}, func() {}, nil
	}
	sampler, err := ParseSampler(cfg.Sampler, cfg.SamplerArgument)
	if err != nil {
		return telemetry.Tracer{}, nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %w", err)
	}
	collector, err := NewCollector(CollectorConfig{
		GRPC: cfg.GRPC, URL: cfg.Endpoint, Headers: cfg.Headers, Timeout: cfg.Timeout, Gzip: cfg.Gzip,
		RootCA: cfg.RootCA, ClientCert: cfg.ClientCert, ClientKey: cfg.ClientKey,
	})
	if err != nil {
		return telemetry.Tracer{}, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_*: %w", err)
	}
	s := New(Config{Sampler: sampler, Export: collector.Export, Resource: cfg.Resource, Log: log.With("scope", "spans")})
	s.Register(reg)
	log.Info("spans are sent", "to", cfg.Endpoint)
	return s.Tracer(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			log.Warn("the last spans were lost", "err", err)
		}
		collector.Close()
	}, nil
}
