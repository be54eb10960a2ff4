package push

import "github.com/prometheus/client_golang/prometheus"

// metrics are under Istio's names, so that its boards show them.
type metrics struct {
	clients       *prometheus.GaugeVec
	pushed        map[string]prometheus.Counter // by type URL
	rejects       *prometheus.CounterVec
	expiredNonces prometheus.Counter
	writeTimeouts prometheus.Counter
	convergence   prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		clients: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pilot_xds", Help: "Proxies that are connected, by the version that they say.",
		}, []string{"version"}),
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_total_xds_rejects", Help: "Responses that a proxy rejected, by type.",
		}, []string{"type"}),
		expiredNonces: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilot_xds_expired_nonce", Help: "Acknowledgements of a response that isn't waited for.",
		}),
		writeTimeouts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilot_xds_write_timeout", Help: "Proxies cut off because they didn't read or acknowledge.",
		}),
		convergence: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pilot_proxy_convergence_time", Help: "Seconds from a change until a proxy acknowledged it.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 3, 5, 10, 20, 30},
		}),
	}
	pushes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilot_xds_pushes", Help: "Responses sent to proxies, by type.",
	}, []string{"type"})
	m.pushed = make(map[string]prometheus.Counter)
	for _, typeURL := range order {
		m.pushed[typeURL] = pushes.WithLabelValues(short(typeURL))
	}
	registry.MustRegister(m.clients, pushes, m.rejects, m.expiredNonces, m.writeTimeouts, m.convergence)
	return m
}
