package telemetry

import "github.com/prometheus/client_golang/prometheus"

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
