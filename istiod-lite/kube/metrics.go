package kube

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
)

// metrics are under Istio's names, so that its boards show them.
type metrics struct {
	settings, registry *prometheus.CounterVec
	lists              *prometheus.CounterVec
	rejected           *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		settings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_k8s_cfg_events", Help: "Changes of Istio's and the Gateway API's objects, by kind and by what happened.",
		}, []string{"type", "event"}),
		registry: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_k8s_reg_events", Help: "Changes of Kubernetes' own objects, by kind and by what happened.",
		}, []string{"type", "event"}),
		lists: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istiod_lite_lists_total", Help: "How often all objects of a kind were read.",
		}, []string{"kind"}),
		rejected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istiod_lite_rejected_objects", Help: "Objects whose present state can't be used and isn't in force, by kind.",
		}, []string{"kind"}),
	}
	registry.MustRegister(m.settings, m.registry, m.lists, m.rejected)
	return m
}

// event counts what happened to an object.
func (m *metrics) event(kind decode.Kind, event string) {
	if strings.Contains(kind.Group, "istio.io") || strings.Contains(kind.Group, "gateway") {
		m.settings.WithLabelValues(kind.Kind, event).Inc()
		return
	}
	m.registry.WithLabelValues(kind.Kind, event).Inc()
}
