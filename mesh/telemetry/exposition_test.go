package telemetry_test

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"

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
func TestAnOpenConnectionCostsLittleMemoryAndAClosedOneNone(t *testing.T) {
	const many = 20_000
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	info, counts := tunnelled(t, telemetry.Source), totals(1, 1)
	m.Open(info).Close(telemetry.FlagNone, nil) // makes the series
	conns := make([]*telemetry.Conn, many)
	before := heap()
	for i := range conns {
		conns[i] = m.Open(info)
		conns[i].Follow(counts)
	}
	if each := (heap() - before) / many; each > 256 {
		t.Errorf("an open connection holds %d bytes, want 256 at the most", each)
	}
	for _, c := range conns {
		c.Close(telemetry.FlagNone, nil)
	}
	clear(conns)
	if left := heap() - before; left > 64<<10 {
		t.Errorf("%d closed connections hold %d bytes", many, left)
	}
	allocations := testing.AllocsPerRun(1000, func() {
		c := m.Open(info)
		c.Follow(counts)
		c.Close(telemetry.FlagNone, nil)
	})
	if allocations > 1 {
		t.Errorf("%v allocations for each connection, want 1", allocations)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// A series is what remains of a peer for an hour.
func TestASeriesCostsLittleMemory(t *testing.T) {
	const many = 5_000
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	info := tunnelled(t, telemetry.Destination)
	before := heap()
	for i := range many {
		info.Source.Workload = "workload-" + strconv.Itoa(i)
		m.Open(info).Close(telemetry.FlagNone, nil)
	}
	if each := (heap() - before) / many; each > 2048 {
		t.Errorf("a series holds %d bytes, want 2048 at the most", each)
	} else {
		t.Logf("a series holds %d bytes", each)
	}
	runtime.KeepAlive(m)
}
