package telemetry_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/scrape"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// collect returns what a scraper gets.
func collect(t testing.TB, g prometheus.Gatherer, m *telemetry.Metrics, accept string) string {
	t.Helper()
	var more []scrape.Exposer
	if m != nil {
		more = append(more, m.Expose)
	}
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response := httptest.NewRecorder()
	scrape.Handler(g, more...).ServeHTTP(response, request)
	if response.Code != http.StatusOK {
		t.Errorf("scrape: status %d: %s", response.Code, response.Body)
	}
	return response.Body.String()
}

// value returns the value of the only series of that name whose labels contain all of the texts, or -1.
func value(t testing.TB, text, name string, labels ...string) float64 {
	t.Helper()
	found := -1.0
	sample := regexp.MustCompile(`^` + name + `(\{.*\})? (\S+)\n$`)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		match := sample.FindStringSubmatch(line)
		if match == nil || !containsAll(match[1], labels) {
			continue
		}
		if found >= 0 {
			t.Errorf("several series %s with %q", name, labels)
		}
		if _, err := fmt.Sscan(match[2], &found); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func account(t testing.TB, name string) identity.Workload {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// tunnelled is a connection through a tunnel as one of its reporters knows it.
func tunnelled(t testing.TB, reporter telemetry.Reporter) telemetry.Connection {
	t.Helper()
	return telemetry.Connection{
		Reporter: reporter,
		Source: telemetry.Peer{
			Pod: "frontend-5d4f-abcde", Workload: "frontend", CanonicalName: "frontend", CanonicalRevision: "v1", Namespace: "shop",
			Cluster: "Kubernetes", Region: "r1", Zone: "z1", Identity: account(t, "frontend"),
		},
		Destination: telemetry.Peer{
			Pod: "cart-7c6b-fghij", Workload: "cart-v2", CanonicalName: "cart", CanonicalRevision: "v2", Namespace: "shop",
			Cluster: "Kubernetes", Region: "r2", Zone: "z2", Identity: account(t, "cart"),
		},
		Service: "cart.shop.svc.cluster.local", ServiceNamespace: "shop", ServiceName: "cart",
		MTLS: true,
		Src:  netip.MustParseAddrPort("10.0.0.1:43210"), Dst: netip.MustParseAddrPort("10.0.1.2:15008"), HBONEDst: "10.0.1.2:8080",
	}
}

func totals(sent, received uint64) func() (uint64, uint64) {
	return func() (uint64, uint64) { return sent, received }
}

// The client's pod sends 10 bytes and gets 2000.
func TestConnectionMetricsOfBothReporters(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := telemetry.NewMetrics(reg)
	source := m.Open(tunnelled(t, telemetry.Source))
	source.Follow(totals(10, 2000))
	source.Close(telemetry.FlagNone, nil)
	destination := m.Open(tunnelled(t, telemetry.Destination))
	destination.Follow(totals(2000, 10))
	destination.Close(telemetry.FlagNone, nil)
	failed := m.Open(tunnelled(t, telemetry.Source))
	failed.Close(telemetry.FlagConnect, errors.New("no route to host"))
	m.Refuse(telemetry.Connection{Reporter: telemetry.Destination}, telemetry.FlagTLS, errors.New("unknown authority"))
	m.Sockets(telemetry.Source).Inc()
	golden(t, "scrape.golden", collect(t, reg, m, ""))
	golden(t, "scrape_openmetrics.golden", collect(t, reg, m, "application/openmetrics-text; version=1.0.0"))
}

func TestEveryConnectionIsOpenedAndClosedOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	c := m.Open(tunnelled(t, telemetry.Source))
	text := collect(t, reg, m, "")
	if opened, closed := value(t, text, "istio_tcp_connections_opened_total"), value(t, text, "istio_tcp_connections_closed_total"); opened != 1 || closed != -1 {
		t.Errorf("while open: opened %v, closed %v", opened, closed)
	}
	c.Close(telemetry.FlagDenied, errors.New("denied by policy shop/a"))
	c.Close(telemetry.FlagNone, nil)
	m.Open(tunnelled(t, telemetry.Source)).Close(telemetry.FlagNone, nil)
	m.Open(tunnelled(t, telemetry.Source)).Close("SOMETHING ELSE", nil)
	text = collect(t, reg, m, "")
	for _, want := range []struct {
		name, flags string
		value       float64
	}{
		{"istio_tcp_connections_opened_total", `response_flags="-"`, 3},
		{"istio_tcp_connections_closed_total", `response_flags="-"`, 1},
		{"istio_tcp_connections_closed_total", `response_flags="DENY"`, 1},
		{"istio_tcp_connections_closed_total", `response_flags="CONNECT"`, 1},
		{"istio_tcp_connections_failed_total", `response_flags="DENY"`, 1},
		{"istio_tcp_connections_failed_total", `response_flags="CONNECT"`, 1},
		{"istio_tcp_connections_failed_total", `response_flags="-"`, -1},
	} {
		if got := value(t, text, want.name, want.flags); got != want.value {
			t.Errorf("%s{%s} = %v, want %v", want.name, want.flags, got, want.value)
		}
	}
}

func TestPrincipalsAreToldOnlyWithMutualTLS(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	info := tunnelled(t, telemetry.Destination)
	info.MTLS = false
	m.Open(info).Close(telemetry.FlagNone, nil)
	text := collect(t, reg, m, "")
	if got := value(t, text, "istio_tcp_connections_opened_total", `source_principal="unknown"`, `destination_principal="unknown"`,
		`connection_security_policy="unknown"`); got != 1 {
		t.Errorf("plain text connection:\n%s", text)
	}
}

func TestBytesOfOpenConnectionsAreSeenWhileTheyFlow(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	var sent, received atomic.Uint64
	c := m.Open(tunnelled(t, telemetry.Source))
	c.Follow(func() (uint64, uint64) { return sent.Load(), received.Load() })
	check := func(when string, wantReceived, wantSent float64) {
		t.Helper()
		text := collect(t, reg, m, "")
		if got := value(t, text, "istio_tcp_received_bytes_total"); got != wantReceived {
			t.Errorf("%s: received %v, want %v", when, got, wantReceived)
		}
		if got := value(t, text, "istio_tcp_sent_bytes_total"); got != wantSent {
			t.Errorf("%s: sent %v, want %v", when, got, wantSent)
		}
	}
	check("at first", 0, 0)
	sent.Store(100)
	received.Store(7)
	check("in between", 100, 7)
	sent.Store(150)
	c.Close(telemetry.FlagNone, nil)
	sent.Store(1000)
	check("after the end", 150, 7)
}

func TestFollowAfterCloseIsHarmless(t *testing.T) {
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	c := m.Open(tunnelled(t, telemetry.Source))
	c.Close(telemetry.FlagNone, nil)
	c.Follow(func() (uint64, uint64) { t.Error("a closed connection was asked"); return 0, 0 })
}

// Baggage comes from the peer, who could be anybody with an identity.
func TestPeersCannotSpoilAScrape(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	info := tunnelled(t, telemetry.Destination)
	info.Source.Workload = "bad \xff\xfe \n \" text"
	info.Source.Cluster = strings.Repeat("ü", 1000)
	m.Open(info).Close(telemetry.FlagNone, nil)
	text := collect(t, reg, m, "")
	if got := value(t, text, "istio_tcp_connections_opened_total", `source_workload="bad �� \n \" text"`,
		`source_cluster="`+strings.Repeat("ü", 128)+`"`); got != 1 {
		t.Errorf("scrape:\n%s", text)
	}
}

func TestIdleSeriesAreForgottenOnceTheyWereScraped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m := telemetry.NewMetrics(reg)
		open := tunnelled(t, telemetry.Source)
		long := m.Open(open)
		idle := open
		idle.Destination.Workload = "idle"
		m.Open(idle).Close(telemetry.FlagNone, nil)
		opened := func(workload string) float64 {
			t.Helper()
			return value(t, collect(t, reg, m, ""), "istio_tcp_connections_opened_total", `destination_workload="`+workload+`"`)
		}
		time.Sleep(2 * time.Hour)
		if opened("idle") != 1 {
			t.Error("forgotten before it was scraped")
		}
		if opened("idle") != -1 {
			t.Error("not forgotten after an hour and a scrape")
		}
		if opened("cart-v2") != 1 {
			t.Error("a series with an open connection was forgotten")
		}
		m.Open(idle).Close(telemetry.FlagNone, nil)
		if opened("idle") != 1 {
			t.Error("a series that comes back does not begin anew")
		}
		time.Sleep(59 * time.Minute)
		if opened("idle") != 1 {
			t.Error("forgotten within the hour")
		}
		long.Close(telemetry.FlagNone, nil)
	})
}

func TestTooManySeriesAreCountedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m := telemetry.NewMetrics(reg)
		var conns []*telemetry.Conn
		open := func(n int) *telemetry.Conn {
			info := tunnelled(t, telemetry.Destination)
			info.Source.Workload = fmt.Sprint("workload-", n)
			return m.Open(info)
		}
		for n := range 10_050 {
			conns = append(conns, open(n))
		}
		text := collect(t, reg, m, "")
		if got := value(t, text, "tulle_telemetry_overflow_total"); got != 50 {
			t.Errorf("overflow %v, want 50", got)
		}
		if got := value(t, text, "istio_tcp_connections_opened_total", `reporter="destination"`, `source_workload="unknown"`,
			`connection_security_policy="mutual_tls"`); got != 50 {
			t.Errorf("connections without labels %v, want 50", got)
		}
		if n := strings.Count(text, "\nistio_tcp_connections_opened_total{"); n != 10_001 {
			t.Errorf("%d series, want 10001", n)
		}
		for _, c := range conns {
			c.Close(telemetry.FlagNone, nil)
		}
		time.Sleep(time.Minute)
		open(20_000).Close(telemetry.FlagNone, nil)
		text = collect(t, reg, m, "")
		if got := value(t, text, "istio_tcp_connections_opened_total", `source_workload="workload-20000"`); got != 1 {
			t.Errorf("a new series after the idle ones went: %v, want 1", got)
		}
	})
}

func TestConnectionsAndScrapesAtOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for i := range 50 {
				info := tunnelled(t, telemetry.Source)
				info.Source.Zone = fmt.Sprint(i % 3)
				c := m.Open(info)
				var total atomic.Uint64
				c.Follow(func() (uint64, uint64) { return total.Load(), total.Load() })
				total.Store(10)
				if i%10 == 0 {
					collect(t, reg, m, "")
				}
				c.Close(telemetry.FlagNone, nil)
			}
		})
	}
	work.Wait()
	text := collect(t, reg, m, "")
	for _, name := range []string{"istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"} {
		sum := 0.0
		for zone := range 3 {
			sum += value(t, text, name, fmt.Sprintf(`source_zone="%d"`, zone))
		}
		if sum != 4000 {
			t.Errorf("%s = %v, want 4000", name, sum)
		}
	}
}

func TestProcessControlPlaneAndPodMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	telemetry.RegisterProcess(reg, "ztunnel", "1.2.3")
	xds := telemetry.NewXDS(reg)
	pods := telemetry.NewPods(reg)
	xds.Terminated(telemetry.XDSReconnect)
	xds.Received("type.googleapis.com/istio.workload.Address", 100)
	xds.Received("type.googleapis.com/istio.workload.Address", 20)
	pods.Active.Set(3)
	pods.Pending.Set(1)
	pods.Started.Add(4)
	pods.Stopped.Inc()
	text := collect(t, reg, nil, "")
	for _, want := range []struct {
		name, label string
		value       float64
	}{
		{"istio_build", `{component="ztunnel",tag="1.2.3"}`, 1},
		{"istio_xds_connection_terminations_total", `{reason="Reconnect"}`, 1},
		{"istio_xds_connection_terminations_total", `{reason="ConnectionError"}`, 0},
		{"istio_xds_connection_terminations_total", `{reason="Error"}`, 0},
		{"istio_xds_connection_terminations_total", `{reason="Complete"}`, 0},
		{"istio_xds_message_total", `{url="type.googleapis.com/istio.workload.Address"}`, 2},
		{"istio_xds_message_bytes_total", `{url="type.googleapis.com/istio.workload.Address"}`, 120},
		{"workload_manager_active_proxy_count", "", 3},
		{"workload_manager_pending_proxy_count", "", 1},
		{"workload_manager_proxies_started_total", "", 4},
		{"workload_manager_proxies_stopped_total", "", 1},
	} {
		if got := value(t, text, want.name, want.label); got != want.value {
			t.Errorf("%s%s = %v, want %v", want.name, want.label, got, want.value)
		}
	}
	for _, name := range []string{"process_open_fds", "process_max_fds"} {
		if value(t, text, name) < 1 {
			t.Errorf("%s is missing", name)
		}
	}
}

func BenchmarkConnection(b *testing.B) {
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	info := tunnelled(b, telemetry.Source)
	b.ReportAllocs()
	for b.Loop() {
		c := m.Open(info)
		c.Follow(totals(100, 100))
		c.Close(telemetry.FlagNone, nil)
	}
}

func BenchmarkScrapeOf1000Series(b *testing.B) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	for n := range 1000 {
		info := tunnelled(b, telemetry.Source)
		info.Destination.Workload = fmt.Sprint(n)
		m.Open(info).Close(telemetry.FlagNone, nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		collect(b, reg, m, "")
	}
}
