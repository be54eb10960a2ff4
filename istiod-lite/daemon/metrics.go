package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// metrics are those that belong to no room, under Istio's names where it has one.
type metrics struct {
	rejected *prometheus.CounterVec // by kind
	updates  *prometheus.CounterVec // by type
	triggers *prometheus.CounterVec // by type
	apply    prometheus.Histogram
	failures prometheus.Counter
}

func newMetrics(registry prometheus.Registerer, m *model.Model, version string) *metrics {
	all := &metrics{
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istiod_lite_rejected_total", Help: "Files and objects that couldn't be used, by kind; a file is of the kind file.",
		}, []string{"kind"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_inbound_updates", Help: "Objects that came, changed or went, by what they are about.",
		}, []string{"type"}),
		triggers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_push_triggers", Help: "Translations because of changes, by what those are about.",
		}, []string{"type"}),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pilot_pushcontext_init_seconds", Help: "Seconds that taking in and translating changes took.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 3, 5},
		}),
	}
	all.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pilot_total_xds_internal_errors", Help: "Resources that couldn't be encoded, so that proxies keep what they were told before.",
	})
	start := time.Now()
	telemetry.RegisterProcess(registry, "pilot", version) // as dashboards call a control plane
	registry.MustRegister(
		all.rejected, all.updates, all.triggers, all.apply, all.failures,
		gauge("pilot_services", "Services that are known.", func() (count float64) {
			m.View(func() { count = float64(m.Count(model.KindService)) })
			return count
		}),
		gauge("istiod_managed_clusters", "Clusters whose objects are followed.", func() float64 { return 1 }),
		gauge("istiod_uptime_seconds", "Seconds since the start.", func() float64 { return time.Since(start).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_info", Help: "The version that runs, as a label.", ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
	)
	return all
}

func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
}

// applied counts what was taken in, which took so long.
func (m *metrics) applied(changes []model.Change, took time.Duration) {
	seen := make(map[string]bool)
	for _, change := range changes {
		about := about(change.Key.Kind)
		m.updates.WithLabelValues(about).Inc()
		if !seen[about] {
			seen[about] = true
			m.triggers.WithLabelValues(about).Inc()
		}
	}
	m.apply.Observe(took.Seconds())
}

// about says it in Istio's words.
func about(kind model.Kind) string {
	switch kind {
	case model.KindPod, model.KindEndpointSlice, model.KindNode, model.KindEnrolment:
		return "endpoint"
	case model.KindService:
		return "service"
	}
	return "config"
}
