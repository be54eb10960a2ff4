package daemon

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Dashboards and alerts ask for these names, from the first scrape on or once there was such an event.
func TestMetricsExistAndAreStable(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	first := m.server.node.families("/metrics")
	for _, name := range []string{
		"istio_build", "istio_tcp_sockets_open", "istio_xds_connection_terminations_total", "istio_xds_message_total", "istio_xds_message_bytes_total",
		"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_connections_failed_total", "istio_tcp_received_bytes_total",
		"istio_tcp_sent_bytes_total", "workload_manager_active_proxy_count", "workload_manager_pending_proxy_count", "workload_manager_proxies_started_total",
		"workload_manager_proxies_stopped_total", "process_open_fds", "process_max_fds", "tulle_log_lines_dropped_total", "tulle_telemetry_overflow_total",
	} {
		if !slices.Contains(first, name) {
			t.Errorf("%s isn't there", name)
		}
	}
	m.server.serve(t, 8080)
	for range 2 {
		_, conn, err := m.client.call(netip.AddrPortFrom(m.server.v4, 8080))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		m.server.node.waitLog("connection complete")
	}
	if diff := cmp.Diff(first, m.server.node.families("/stats/prometheus")); diff != "" {
		t.Errorf("the names differ after some connections (-before +after):\n%s", diff)
	}
	for labels, want := range map[string]float64{
		`istio_build component="ztunnel"`:                                  1,
		`istio_build tag="test"`:                                           1,
		`workload_manager_active_proxy_count`:                              1,
		`istio_tcp_sockets_open reporter="destination"`:                    0,
		`istio_tcp_connections_failed_total`:                               0,
		`istio_xds_connection_terminations_total reason="ConnectionError"`: 0,
	} {
		words := strings.Fields(labels)
		if got := m.server.node.metric(words[0], words[1:]...); got != want {
			t.Errorf("%s is %v, want %v", labels, got, want)
		}
	}
}

// families lists the names of a page of metrics, read as Prometheus does, but for those of the Go runtime.
func (n *node) families(path string) []string {
	n.t.Helper()
	_, text := n.get("metrics", path)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		n.t.Fatalf("%v:\n%s", err, text)
	}
	// The parser leaves families out that have no series; their names are promises all the same.
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); strings.HasPrefix(line, "# TYPE ") {
			families[words[2]] = nil
		}
	}
	names := slices.Sorted(maps.Keys(families))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "go_") })
}
