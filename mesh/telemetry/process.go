package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// RegisterProcess registers what every program tells of itself: istio_build with the component's name and its version,
// the process (process_open_fds, process_max_fds, memory, CPU time) and the Go runtime.
func RegisterProcess(reg prometheus.Registerer, component, version string) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "istio_build", Help: "Which component in which version this is; always 1.",
		ConstLabels: prometheus.Labels{"component": component, "tag": version},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
}
