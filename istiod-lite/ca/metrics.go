package ca

import (
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are under Istio's names.
type metrics struct {
	requests, authentication, parsing, identification, issued prometheus.Counter
	signing                                                   *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, authority *Authority) *metrics {
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
		issued:         counter("success_cert_issuance_count", "Certificates signed."),
		signing: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citadel_server_csr_sign_err_count", Help: "Certificates that couldn't be signed.",
		}, []string{"error"}),
	}
	registry.MustRegister(m.signing)
	expiry(registry, "root_cert", authority.rootSet)
	expiry(registry, "cert_chain", []*x509.Certificate{authority.signer})
	return m
}

// expiry registers when the first of the certificates expires, as a time and as what is left of it.
func expiry(registry prometheus.Registerer, name string, certificates []*x509.Certificate) {
	first := certificates[0].NotAfter
	for _, certificate := range certificates {
		if certificate.NotAfter.Before(first) {
			first = certificate.NotAfter
		}
	}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "citadel_server_" + name + "_expiry_timestamp", Help: "When it expires, in seconds since 1970.",
		}, func() float64 { return float64(first.Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "citadel_server_" + name + "_expiry_seconds", Help: "Seconds until it expires.",
		}, func() float64 { return time.Until(first).Seconds() }),
	)
}
