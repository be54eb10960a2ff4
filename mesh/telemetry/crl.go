package telemetry

import "github.com/prometheus/client_golang/prometheus"

// CRL counts what certificate revocation lists do.
type CRL struct{ rejections *prometheus.CounterVec }

// NewCRL makes the metrics of revocation and registers them.
func NewCRL(reg prometheus.Registerer) *CRL {
	vec := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"reporter"})
		for _, reporter := range []Reporter{Source, Destination} {
			v.WithLabelValues(string(reporter))
		}
		reg.MustRegister(v)
		return v
	}
	// It stays zero: every tunnel's peer can be checked again. Dashboards expect it.
	vec("istio_crl_untracked_connections_total", "Connections that a later revocation could not cut.")
	return &CRL{vec("istio_crl_policy_rejections_total", "Handshakes refused since the peer's certificate was revoked.")}
}

// Rejected counts a refused handshake.
func (c *CRL) Rejected(reporter Reporter) { c.rejections.WithLabelValues(string(reporter)).Inc() }
