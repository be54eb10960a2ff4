package telemetry

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	maxSeries = 10_000
	// keepIdle is how long a series without an open connection stays.
	keepIdle = time.Hour
	// sweepEvery is the least time between two searches for idle series because of the limit.
	sweepEvery = 10 * time.Second

	unknown = "unknown"
)

// allFlags are the values of response_flags; FlagNone is the first.
var allFlags = [...]string{
	FlagNone, FlagDenied, FlagConnect, FlagTLS, FlagHTTP2, FlagNetworkPolicy, FlagIdentity,
}

// flagIndex takes a flag that isn't known for a failure to connect.
func flagIndex(flag string) int {
	if i := slices.Index(allFlags[:], flag); i >= 0 {
		return i
	}
	return slices.Index(allFlags[:], FlagConnect)
}

// labels is what tells series apart, but for response_flags.
type labels struct {
	reporter                               Reporter
	source, destination                    Peer // without Pod; Identity only with mtls
	service, serviceNamespace, serviceName string
	mtls                                   bool
}

func labelsOf(info Connection) labels {
	l := labels{
		reporter:         info.Reporter,
		source:           labelPeer(info.Source),
		destination:      labelPeer(info.Destination),
		service:          bounded(info.Service),
		serviceNamespace: bounded(info.ServiceNamespace),
		serviceName:      bounded(info.ServiceName),
		mtls:             info.MTLS,
	}
	if !l.mtls {
		l.source.Identity, l.destination.Identity = Peer{}.Identity, Peer{}.Identity
	}
	return l
}

func labelPeer(p Peer) Peer {
	return Peer{
		Workload: bounded(p.Workload), CanonicalName: bounded(p.CanonicalName), CanonicalRevision: bounded(p.CanonicalRevision),
		Namespace: bounded(p.Namespace), Cluster: bounded(p.Cluster), Region: bounded(p.Region), Zone: bounded(p.Zone),
		Identity: p.Identity,
	}
}

// series are the counters of connections with the same labels.
type series struct {
	opened, sent, received atomic.Uint64
	closed, failed         [len(allFlags)]atomic.Uint64

	// Guarded by Metrics.mu: how many of its connections are open, since when there is none, and when a scrape last saw it.
	live      int
	idleSince time.Time
	scraped   time.Time
}

// seriesLocked finds or makes the series.
func (m *Metrics) seriesLocked(key labels, now time.Time) *series {
	if s := m.series[key]; s != nil {
		return s
	}
	if len(m.series) >= maxSeries && now.Sub(m.lastSweep) >= sweepEvery {
		m.lastSweep = now
		for other, s := range m.series {
			if s.live == 0 {
				delete(m.series, other)
			}
		}
	}
	if len(m.series) >= maxSeries {
		m.overflow.Inc()
		key = labels{reporter: key.reporter, mtls: key.mtls}
		if s := m.series[key]; s != nil {
			return s
		}
	}
	s := &series{}
	m.series[key] = s
	return s
}

// labelNames are the labels in the order in which Istio lists them; wireOrder puts alphabetical pairs into it.
var labelNames = []string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_cluster",
	"request_protocol", "response_flags", "connection_security_policy",
	"source_region", "source_zone", "destination_region", "destination_zone",
}

// values are in the order of labelNames.
func (l labels) values(flag string) []string {
	security := unknown
	if l.mtls {
		security = "mutual_tls"
	}
	src, dst := l.source, l.destination
	values := []string{
		string(l.reporter),
		src.Workload, src.CanonicalName, src.CanonicalRevision, src.Namespace,
		src.Identity.String(), src.CanonicalName, src.CanonicalRevision, src.Cluster,
		l.service, l.serviceNamespace, l.serviceName,
		dst.Workload, dst.CanonicalName, dst.CanonicalRevision,
		dst.Namespace, dst.Identity.String(), dst.CanonicalName, dst.CanonicalRevision,
		dst.Cluster,
		"tcp", flag, security,
		src.Region, src.Zone, dst.Region, dst.Zone,
	}
	for i, value := range values {
		if value == "" {
			values[i] = unknown
		}
	}
	return values
}

// connectionCollector hands the series to a scrape.
type connectionCollector struct{ metrics *Metrics }

var (
	openedDesc   = connectionDesc("istio_tcp_connections_opened_total", "Connections opened.")
	closedDesc   = connectionDesc("istio_tcp_connections_closed_total", "Connections closed, those that failed included.")
	failedDesc   = connectionDesc("istio_tcp_connections_failed_total", "Connections that failed, response_flags says why.")
	receivedDesc = connectionDesc("istio_tcp_received_bytes_total", "Bytes from clients to servers.")
	sentDesc     = connectionDesc("istio_tcp_sent_bytes_total", "Bytes from servers to clients.")
)

func connectionDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labelNames, nil)
}

// Describe implements prometheus.Collector.
func (connectionCollector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{openedDesc, closedDesc, failedDesc, receivedDesc, sentDesc} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c connectionCollector) Collect(out chan<- prometheus.Metric) {
	c.metrics.update()
	for key, s := range c.metrics.scrape() {
		plain := pairs(key.values(FlagNone))
		out <- &sample{openedDesc, plain, s.opened.Load()}
		out <- &sample{receivedDesc, plain, s.received.Load()}
		out <- &sample{sentDesc, plain, s.sent.Load()}
		for i, flag := range allFlags {
			closed, failed := s.closed[i].Load(), s.failed[i].Load()
			if closed == 0 {
				continue
			}
			flagged := plain
			if i > 0 {
				flagged = pairs(key.values(flag))
				out <- &sample{failedDesc, flagged, failed}
			}
			out <- &sample{closedDesc, flagged, closed}
		}
	}
}

// update asks all followed connections for their counts, without holding the lock meanwhile.
func (m *Metrics) update() {
	m.mu.Lock()
	conns := make([]*Conn, 0, len(m.followed))
	for c := range m.followed {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	for _, c := range conns {
		c.update()
	}
}

// scrape copies the list of series and forgets those that are idle for long and were seen since.
func (m *Metrics) scrape() map[labels]*series {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := make(map[labels]*series, len(m.series))
	for key, s := range m.series {
		if s.live == 0 && now.Sub(s.idleSince) > keepIdle && s.scraped.After(s.idleSince) {
			delete(m.series, key)
			continue
		}
		s.scraped = now
		seen[key] = s
	}
	return seen
}

// sample is one counter at one moment.
type sample struct {
	desc  *prometheus.Desc
	pairs []*dto.LabelPair
	value uint64
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	value := float64(s.value)
	out.Label, out.Counter = s.pairs, &dto.Counter{Value: &value}
	return nil
}

// pairs makes the pairs in alphabetical order, which the registry asks for.
func pairs(values []string) []*dto.LabelPair {
	store := make([]dto.LabelPair, len(values))
	list := make([]*dto.LabelPair, len(values))
	for at, i := range alphabetical {
		store[i].Name, store[i].Value = &labelNames[i], &values[i]
		list[at] = &store[i]
	}
	return list
}
