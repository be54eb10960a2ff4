package telemetry_test

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// What Prometheus itself reads, with the parser of its own library.
func TestPrometheusCanReadAScrape(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	telemetry.RegisterProcess(reg, "ztunnel", "1.2.3")
	info := tunnelled(t, telemetry.Destination)
	info.Source.Workload = "a \"quoted\" \\ name\nin two lines"
	c := m.Open(info)
	c.Follow(totals(2000, 10))
	c.Close(telemetry.FlagRevoked, errors.New("certificate revoked"))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(collect(t, reg, m, "text/plain; version=0.0.4")))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"istio_tcp_connections_opened_total": 1,
		"istio_tcp_connections_closed_total": 1,
		"istio_tcp_connections_failed_total": 1,
		"istio_tcp_received_bytes_total":     10,
		"istio_tcp_sent_bytes_total":         2000,
	} {
		family := families[name]
		if family.GetType() != dto.MetricType_COUNTER || len(family.GetMetric()) != 1 || family.GetHelp() == "" {
			t.Fatalf("%s: %v", name, family)
		}
		metric := family.GetMetric()[0]
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		if got := metric.GetCounter().GetValue(); got != want || len(labels) != 27 || labels["source_workload"] != info.Source.Workload {
			t.Errorf("%s = %v with %d labels, source_workload %q; want %v, 27, %q", name, got, len(labels), labels["source_workload"], want, info.Source.Workload)
		}
	}
	if got := families["istio_build"].GetMetric()[0].GetLabel(); len(got) != 2 {
		t.Errorf("istio_build: %v", got)
	}
}

// There may be tens of thousands of open connections.
func TestAnOpenConnectionCostsLittleMemory(t *testing.T) {
	if size := unsafe.Sizeof(telemetry.Conn{}); size > 240 {
		t.Errorf("telemetry.Conn has %d bytes, want 240 at the most", size)
	}
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	info, counts := tunnelled(t, telemetry.Source), totals(1, 1)
	allocations := testing.AllocsPerRun(1000, func() {
		c := m.Open(info)
		c.Follow(counts)
		c.Close(telemetry.FlagNone, nil)
	})
	if allocations > 1 {
		t.Errorf("%v allocations for each connection, want 1", allocations)
	}
}
