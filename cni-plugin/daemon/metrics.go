package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/mesh/scrape"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// metrics are the agent's. Those that Istio's agent has as well have its names.
type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	repairs  prometheus.Counter
	installs *prometheus.CounterVec
}

var (
	podsDesc      = prometheus.NewDesc("tulle_cni_pods", "Pods of the node, by state.", []string{"state"}, nil)
	failingDesc   = prometheus.NewDesc("tulle_cni_pods_failing", "Pods whose last attempt to take them in or out failed.", nil, nil)
	proxiesDesc   = prometheus.NewDesc("tulle_cni_proxies_connected", "Tunnel proxies that are connected.", nil, nil)
	installedDesc = prometheus.NewDesc("istio_cni_install_ready", "1 if the CNI plugin is installed.", nil, nil)
)

func newMetrics(d *daemon, version string) *metrics {
	registry := prometheus.NewRegistry()
	m := &metrics{
		handler: scrape.Handler(registry),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_cni_plugin_requests_total", Help: "Requests of the CNI plugin, by verb and result.",
		}, []string{"verb", "result"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_cni_repairs_total", Help: "Pods that were found not captured though they were enrolled, and captured again.",
		}),
		installs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_cni_installs_total", Help: "How often the CNI plugin was installed, by result.",
		}, []string{"result"}),
	}
	telemetry.RegisterProcess(registry, "cni", version) // as dashboards call a node agent
	registry.MustRegister(m.requests, m.repairs, m.installs, gauges{d})
	return m
}

func (m *metrics) request(verb string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.requests.WithLabelValues(verb, result).Inc()
}

// gauges counts from the same view that people see.
type gauges struct{ d *daemon }

// Describe names what is collected.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{podsDesc, failingDesc, proxiesDesc, installedDesc} {
		to <- desc
	}
}

// Collect counts.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	count := map[string]int{}
	failing := 0
	for _, pod := range g.d.agent.Views() {
		count[pod.State]++
		if pod.Error != "" {
			failing++
		}
	}
	gauge := func(desc *prometheus.Desc, value int, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	for _, state := range agent.States() {
		gauge(podsDesc, count[state], state)
	}
	gauge(failingDesc, failing)
	gauge(proxiesDesc, g.d.proxies.Connected())
	if g.d.installer != nil {
		installed := 0
		if g.d.installer.Installed() {
			installed = 1
		}
		gauge(installedDesc, installed)
	}
}
