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

// Why an xDS stream has ended, as the label reason of istio_xds_connection_terminations_total says it.
const (
	XDSConnectionError = "ConnectionError" // could not be made
	XDSError           = "Error"           // broken off
	XDSReconnect       = "Reconnect"       // ended by the server in order
	XDSComplete        = "Complete"        // ended by us
)

// XDS counts what comes from the control plane.
type XDS struct {
	terminations, messages, bytes *prometheus.CounterVec
}

// NewXDS makes the control plane client's metrics and registers them.
func NewXDS(reg prometheus.Registerer) *XDS {
	x := &XDS{
		terminations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_connection_terminations_total", Help: "Control plane streams that have ended.",
		}, []string{"reason"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_message_total", Help: "Messages from the control plane.",
		}, []string{"url"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_message_bytes_total", Help: "Bytes of the resources in messages from the control plane.",
		}, []string{"url"}),
	}
	reg.MustRegister(x.terminations, x.messages, x.bytes)
	for _, reason := range []string{XDSConnectionError, XDSError, XDSReconnect, XDSComplete} {
		x.terminations.WithLabelValues(reason)
	}
	return x
}

// Terminated counts a stream that has ended for one of the XDS reasons.
func (x *XDS) Terminated(reason string) { x.terminations.WithLabelValues(reason).Inc() }

// Received counts a message with resources of the type. The type must be one that was subscribed to.
func (x *XDS) Received(typeURL string, bytes int) {
	x.messages.WithLabelValues(typeURL).Inc()
	x.bytes.WithLabelValues(typeURL).Add(float64(bytes))
}

// Pods counts the pods of the node that ztunnel serves.
type Pods struct {
	// Active and Pending are how many are served, and how many wait for a retry, now.
	Active, Pending prometheus.Gauge
	// Started and Stopped count the pods since the process began.
	Started, Stopped prometheus.Counter
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
	}
	reg.MustRegister(p.Active, p.Pending, p.Started, p.Stopped)
	return p
}
