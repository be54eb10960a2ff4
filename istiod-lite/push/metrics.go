package push

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are under Istio's names, so that its boards show them.
type metrics struct {
	clients       *prometheus.GaugeVec
	rejects       *prometheus.CounterVec
	expiredNonces prometheus.Counter
	writeTimeouts prometheus.Counter
	convergence   prometheus.Histogram
	queued        prometheus.Histogram
	sending       prometheus.Histogram
	largest       atomic.Int64           // request, in bytes
	byType        map[string]typeMetrics // by type URL
}

// received notes the size of a request.
func (m *metrics) received(bytes int) {
	for {
		largest := m.largest.Load()
		if int64(bytes) <= largest || m.largest.CompareAndSwap(largest, int64(bytes)) {
			return
		}
	}
}

// typeMetrics are of the responses of a type.
type typeMetrics struct {
	pushes      prometheus.Counter
	time, bytes prometheus.Observer
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
	seconds := []float64{.001, .01, .1, 1, 3, 5, 10, 20, 30}
	m.queued = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "pilot_proxy_queue_time", Help: "Seconds from a change until its round began, for each proxy.", Buckets: seconds,
	})
	m.sending = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "pilot_xds_send_time", Help: "Seconds that it took until a response was handed to its connection.", Buckets: seconds,
	})
	pushes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilot_xds_pushes", Help: "Responses sent to proxies, by type.",
	}, []string{"type"})
	times := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pilot_xds_push_time", Help: "Seconds from the beginning of a round until a response was handed to its connection, by type.", Buckets: seconds,
	}, []string{"type"})
	sizes := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pilot_xds_config_size_bytes", Help: "Bytes of the resources in a response, by type.", Buckets: []float64{1, 1e4, 1e6, 4e6, 1e7, 4e7},
	}, []string{"type"})
	m.byType = make(map[string]typeMetrics)
	for _, typeURL := range order {
		name := short(typeURL)
		m.byType[typeURL] = typeMetrics{pushes.WithLabelValues(name), times.WithLabelValues(name), sizes.WithLabelValues(name)}
	}
	recvMax := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilot_xds_recv_max", Help: "Bytes of the largest request that a proxy has sent.",
	}, func() float64 { return float64(m.largest.Load()) })
	registry.MustRegister(recvMax, m.clients, pushes, times, sizes, m.rejects, m.expiredNonces, m.writeTimeouts, m.convergence, m.queued, m.sending)
	return m
}
