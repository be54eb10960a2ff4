package ca

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are under Istio's names.
type metrics struct {
	requests, authentication, parsing, identification, throttled, issued prometheus.Counter
	signing                                                              *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, authority *Live) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "citadel_server_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &metrics{
		requests:       counter("csr_count", "Certificates asked for."),
		authentication: counter("authentication_failure_count", "Callers that were not authenticated."),
		parsing:        counter("csr_parsing_err_count", "Requests that couldn't be read."),
		identification: counter("id_extraction_err_count", "Callers that may not have the identity asked for."),
		throttled:      counter("throttled_count", "Requests of clients that ask too often."),
		issued:         counter("success_cert_issuance_count", "Certificates signed."),
		signing: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citadel_server_csr_sign_err_count", Help: "Certificates that couldn't be signed.",
		}, []string{"error"}),
	}
	registry.MustRegister(m.signing)
	expiry(registry, "root_cert", func() []*x509.Certificate { return authority.Authority().Roots })
	expiry(registry, "cert_chain", func() []*x509.Certificate { return authority.Authority().Chain[:1] })
	return m
}

// expiry registers when the first of the certificates expires, as a time and as what is left of it.
func expiry(registry prometheus.Registerer, name string, certificates func() []*x509.Certificate) {
	first := func() time.Time {
		return slices.MinFunc(certificates(), func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
	}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "citadel_server_" + name + "_expiry_timestamp", Help: "When it expires, in seconds since 1970.",
		}, func() float64 { return float64(first().Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "citadel_server_" + name + "_expiry_seconds", Help: "Seconds until it expires.",
		}, func() float64 { return time.Until(first()).Seconds() }),
	)
}
