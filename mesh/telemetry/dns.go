package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DNS counts what the DNS proxy is asked and asks itself.
type DNS struct {
	requests, upstream, failures, onDemand *prometheus.CounterVec
	seconds                                *prometheus.HistogramVec
}

// DNSRequest is a question as the metrics tell it from others. An empty field is unknown.
type DNSRequest struct {
	Type, Protocol    string // such as AAAA and udp
	Service, Revision string // of the workload that asks
}

// NewDNS makes the DNS proxy's metrics and registers them.
func NewDNS(reg prometheus.Registerer) *DNS {
	labels := []string{"request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"}
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	d := &DNS{
		requests: counter("istio_dns_requests_total", "DNS questions of the pods' applications.", labels),
		upstream: counter("istio_dns_upstream_requests_total", "DNS questions that other name servers were asked.", labels),
		failures: counter("istio_dns_upstream_failures_total", "DNS questions that no other name server answered.", labels),
		onDemand: counter("istio_on_demand_dns_total", "Look-ups of endpoints that have a name instead of an address.", onDemandLabels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "istio_dns_upstream_request_duration_seconds", Help: "How long other name servers took to answer.",
			Buckets: []float64{.0005, .001, .01, .1, 1, 5},
		}, labels),
	}
	reg.MustRegister(d.requests, d.upstream, d.failures, d.onDemand, d.seconds)
	return d
}

// Requested counts a question of an application.
func (d *DNS) Requested(r DNSRequest) { d.requests.WithLabelValues(r.values()...).Inc() }

// Forwarded counts a question that other servers were asked. An error means that none answered.
func (d *DNS) Forwarded(r DNSRequest, took time.Duration, err error) {
	values := r.values()
	d.upstream.WithLabelValues(values...).Inc()
	d.seconds.WithLabelValues(values...).Observe(took.Seconds())
	if err != nil {
		d.failures.WithLabelValues(values...).Inc()
	}
}

func (r DNSRequest) values() []string {
	return knownValues(r.Type, r.Protocol, r.Service, r.Revision)
}

var onDemandLabels = []string{
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster", "hostname",
}

// OnDemand counts the look-up of an endpoint's name for a connection of the source.
func (d *DNS) OnDemand(source Peer, hostname string) {
	d.onDemand.WithLabelValues(knownValues(source.Workload, source.CanonicalName, source.CanonicalRevision, source.Namespace,
		source.Identity.String(), source.CanonicalName, source.CanonicalRevision, source.Cluster, hostname)...).Inc()
}

// knownValues makes values fit for labels.
func knownValues(values ...string) []string {
	for i, value := range values {
		if values[i] = bounded(value); value == "" {
			values[i] = unknown
		}
	}
	return values
}
