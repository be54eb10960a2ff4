package telemetry_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

func TestRevocationMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	crl := telemetry.NewCRL(reg)
	crl.Rejected(telemetry.Destination)
	crl.Rejected(telemetry.Destination)
	crl.Rejected(telemetry.Source)
	page := collect(t, reg, nil, "")
	for _, want := range []string{
		`istio_crl_policy_rejections_total{reporter="destination"} 2`,
		`istio_crl_policy_rejections_total{reporter="source"} 1`,
		`istio_crl_untracked_connections_total{reporter="destination"} 0`,
		`istio_crl_untracked_connections_total{reporter="source"} 0`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("the page doesn't say %s:\n%s", want, page)
		}
	}
}
