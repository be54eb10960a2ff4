package telemetry

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/trace"
)

// Metrics counts connections and writes their access log. The calls for a connection are Open, Follow and Close; or Refuse
// alone. None of them waits: they may be made on the thread of an event loop.
//
// Connections with the same labels share one series. A series that has had no open connection for an hour, and whose last
// counts were scraped, is forgotten; if it comes back it begins at zero, as counters of a restarted process do. There are
// at most 10,000 at a time: when so many are there, those without an open connection go at once, and if that isn't enough
// further connections are counted with all their labels unknown but the reporter and the security policy, and in
// tulle_telemetry_overflow_total.
type Metrics struct {
	access   *AccessLog
	tracer   Tracer
	sockets  map[Reporter]prometheus.Gauge
	overflow prometheus.Counter

	series   seriesTable[labels, connCounts]
	requests seriesTable[requestLabels, requestCounts]

	following sync.Mutex
	// first is the head of the list of open connections whose counts are asked for at every scrape. Guarded by following.
	first *Conn
}

// NewMetrics makes the connection metrics and registers those that are not per series; Expose writes the others.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	sockets := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "istio_tcp_sockets_open", Help: "Accepted sockets that are open.",
	}, []string{"reporter"})
	m := &Metrics{
		sockets: map[Reporter]prometheus.Gauge{
			Source:      sockets.WithLabelValues(string(Source)),
			Destination: sockets.WithLabelValues(string(Destination)), // a waypoint has no sockets of applications
		},
		overflow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_telemetry_overflow_total",
			Help: "Connections counted without their labels because there were too many series.",
		}),
		series: seriesTable[labels, connCounts]{
			own: (*labels).own, plain: func(l labels) labels { return labels{reporter: l.reporter, mtls: l.mtls} },
		},
		requests: seriesTable[requestLabels, requestCounts]{own: (*requestLabels).own, plain: requestLabels.plain},
	}
	reg.MustRegister(sockets, m.overflow)
	return m
}

// LogAccess makes log the place of the access log. Without it there is none. Call it before the first connection.
func (m *Metrics) LogAccess(log *AccessLog) { m.access = log }

// Ended is a connection that has ended.
type Ended struct {
	Connection
	End time.Time
	// Sent and Received are bytes as the reporter's own pod sees them.
	Sent, Received uint64
	Flags          string
	Err            error
	Request        *RequestSpan // of a request; nil for a connection
}

// RequestSpan is what a span tells of a request, beside Ended, whose Trace has the span's own id.
type RequestSpan struct {
	Parent                  [8]byte // the span that it is part of; zero if it begins the trace
	Method, Path, Authority string
	GRPC                    bool
	Code                    int
	GRPCStatus, Route       string
	// Try is which one it is of the request's tries at servers, from 1; 0 for the request itself.
	Try int
}

// Tracer makes spans of connections. Its functions must not block; the zero Tracer makes none.
type Tracer struct {
	// Sampled decides whether a trace that begins here is to have spans.
	Sampled func(trace.Context) bool
	// Follow says that whoever began a trace has decided that for all.
	Follow bool
	// Ended is told about every connection that has ended or was refused.
	Ended func(Ended)
}

// Trace has spans made of connections. Call it before the first connection.
func (m *Metrics) Trace(t Tracer) { m.tracer = t }

// Sampled tells whether a trace that begins here is to have spans.
func (m *Metrics) Sampled(begun trace.Context) bool {
	return m.tracer.Sampled != nil && m.tracer.Sampled(begun)
}

// Follows tells whether it is for whoever began a trace to decide about its spans.
func (m *Metrics) Follows() bool { return m.tracer.Follow }

// Traces tells whether spans are made at all.
func (m *Metrics) Traces() bool { return m.tracer.Ended != nil }

// EndRequest has a span made of a request.
func (m *Metrics) EndRequest(e Ended) { m.tracer.Ended(e) }

// Sockets counts accepted sockets that are open: Inc and Dec it.
func (m *Metrics) Sockets(reporter Reporter) prometheus.Gauge { return m.sockets[reporter] }

// Conn is an open connection. Its methods may be called from any goroutine. It is kept small, as there may be very many:
// what connections of the same labels have in common is in their series.
type Conn struct {
	metrics        *Metrics
	series         *series[labels, connCounts]
	start          time.Time
	src, dst       netip.AddrPort
	hboneDst       string
	sourcePod      string
	destinationPod string
	trace          trace.Context // zero without spans
	closed         atomic.Bool

	// Guarded by Metrics.following.
	previous, next *Conn

	mu     sync.Mutex
	counts func() (sent, received uint64)
	// Bytes so far, as told by counts.
	sent, received uint64
}

// Open counts a connection as opened. Close must follow.
func (m *Metrics) Open(info Connection) *Conn {
	c := m.open(&info)
	m.access.opened(c)
	return c
}

func (m *Metrics) open(info *Connection) *Conn {
	now := time.Now()
	key := labelsOf(info)
	start := info.Start
	if start.IsZero() {
		start = now
	}
	c := &Conn{
		metrics: m, series: m.find(&key, now), start: start, src: info.Src, dst: info.Dst, hboneDst: info.HBONEDst,
		sourcePod: info.Source.Pod, destinationPod: info.Destination.Pod,
	}
	if m.tracer.Ended != nil {
		c.trace = info.Trace
	}
	c.series.counts.opened.Add(1)
	return c
}

// Refuse counts and logs a connection that was turned away before anything was done for it: opened, closed and failed.
func (m *Metrics) Refuse(info Connection, flags string, err error) {
	c := m.open(&info)
	now := time.Now()
	c.finish(flags, now)
	m.access.refused(c, now, err)
	c.tell(flags, now, err)
}

// Follow has the bytes so far asked for at every scrape and at Close. counts returns totals as the reporter's own pod
// sees them: sent are the bytes that it sent, whether it is client or server; a waypoint is its clients' server. The access log shows them so. The metrics of
// both reporters call received what the client sent, and sent what the server did; that turn is made here. counts must
// not block, and may be called from any goroutine until Close returns.
func (c *Conn) Follow(counts func() (sent, received uint64)) {
	c.mu.Lock()
	c.counts = counts
	c.mu.Unlock()
	m := c.metrics
	m.following.Lock()
	defer m.following.Unlock()
	if c.closed.Load() || c.previous != nil || m.first == c {
		return // it has ended, or is in the list
	}
	if c.next = m.first; c.next != nil {
		c.next.previous = c
	}
	m.first = c
}

// find finds or makes the series for one more open connection.
func (m *Metrics) find(key *labels, now time.Time) *series[labels, connCounts] {
	s, overflow := m.series.find(key, now)
	if overflow {
		m.overflow.Inc()
	}
	return s
}

// unfollow takes c out of the list, if it is there.
func (m *Metrics) unfollow(c *Conn) {
	m.following.Lock()
	defer m.following.Unlock()
	switch {
	case c.previous != nil:
		c.previous.next = c.next
	case m.first == c:
		m.first = c.next
	default:
		return
	}
	if c.next != nil {
		c.next.previous = c.previous
	}
	c.previous, c.next = nil, nil
}

// update asks all followed connections for their counts, without holding the lock meanwhile.
func (m *Metrics) update() {
	m.following.Lock()
	var conns []*Conn
	for c := m.first; c != nil; c = c.next {
		conns = append(conns, c)
	}
	m.following.Unlock()
	for _, c := range conns {
		c.update()
	}
}

// update takes over the followed counts.
func (c *Conn) update() {
	c.mu.Lock()
	counts := c.counts
	c.mu.Unlock()
	if counts == nil {
		return
	}
	sent, received := counts()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Another update may have seen later counts.
	newSent, newReceived := max(sent, c.sent)-c.sent, max(received, c.received)-c.received
	c.sent += newSent
	c.received += newReceived
	if c.series.labels.reporter == Source {
		newSent, newReceived = newReceived, newSent
	}
	c.series.counts.sent.Add(newSent)
	c.series.counts.received.Add(newReceived)
}

// totals are the bytes so far.
func (c *Conn) totals() (sent, received uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.received
}

// Close counts the connection as closed, and as failed if flags isn't FlagNone, and writes its access-log line: with err
// it is an error. Only the first call counts.
func (c *Conn) Close(flags string, err error) {
	now := time.Now()
	if c.finish(flags, now) {
		c.metrics.access.complete(c, now, err)
		c.tell(flags, now, err)
	}
}

// finish returns false if it was done before. It lets go of whom it followed.
func (c *Conn) finish(flags string, now time.Time) bool {
	if c.closed.Swap(true) {
		return false
	}
	c.metrics.unfollow(c)
	c.update()
	c.mu.Lock()
	c.counts = nil
	c.mu.Unlock()
	flag := flagIndex(flags)
	c.series.counts.closed[flag].Add(1)
	if flag != 0 {
		c.series.counts.failed[flag].Add(1)
	}
	c.series.release(now)
	return true
}

// tell passes the end on to those who make spans of it.
func (c *Conn) tell(flags string, now time.Time, err error) {
	if c.metrics.tracer.Ended == nil {
		return
	}
	sent, received := c.totals()
	c.metrics.tracer.Ended(Ended{
		Connection: c.connection(), End: now, Sent: sent, Received: received, Flags: allFlags[flagIndex(flags)], Err: err,
	})
}

// connection puts together again what Open was told.
func (c *Conn) connection() Connection {
	l := &c.series.labels
	info := Connection{
		Reporter: l.reporter, Source: l.source, Destination: l.destination, Service: l.service, ServiceNamespace: l.serviceNamespace,
		ServiceName: l.serviceName, MTLS: l.mtls, Src: c.src, Dst: c.dst, HBONEDst: c.hboneDst, Trace: c.trace, Start: c.start,
	}
	info.Source.Pod, info.Destination.Pod = c.sourcePod, c.destinationPod
	return info
}
