package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Pods counts the pods of the node that ztunnel serves.
type Pods struct {
	// Active and Pending are how many are served, and how many wait for a retry, now.
	Active, Pending prometheus.Gauge
	// Started and Stopped count the pods since the process began.
	Started, Stopped prometheus.Counter
	// Refused counts the sockets that were refused to pods that have their share open.
	Refused prometheus.Counter
}

// NewPods makes the pods' metrics and registers them.
func NewPods(reg prometheus.Registerer) *Pods {
	p := &Pods{
		Active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "workload_manager_active_proxy_count", Help: "Pods that are served now.",
		}),
		Pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "workload_manager_pending_proxy_count", Help: "Pods that could not be served yet and are retried.",
		}),
		Started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "workload_manager_proxies_started_total", Help: "Pods whose serving has begun.",
		}),
		Stopped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "workload_manager_proxies_stopped_total", Help: "Pods whose serving has ended.",
		}),
		Refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_pod_sockets_refused_total", Help: "Connections and tunnels that were refused since their pod has its share of open files.",
		}),
	}
	reg.MustRegister(p.Active, p.Pending, p.Started, p.Stopped, p.Refused)
	return p
}
