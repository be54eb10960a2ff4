package telemetry

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts connections and writes their access log. The calls for a connection are Open, Follow or Add, and Close;
// or Refuse alone.
//
// Connections with the same labels share one series. A series that has had no open connection for an hour, and whose last
// counts were scraped, is forgotten; if it comes back it begins at zero, as counters of a restarted process do. There are
// at most 10,000 at a time: when so many are there, those without an open connection go at once, and if that isn't enough
// further connections are counted with all their labels unknown but the reporter and the security policy, and in
// tulle_telemetry_overflow_total.
type Metrics struct {
	access   *slog.Logger
	sockets  *prometheus.GaugeVec
	overflow prometheus.Counter

	mu     sync.Mutex
	series map[labels]*series
	// followed are the open connections whose counts are asked for at every scrape.
	followed map[*Conn]struct{}
	// lastSweep is when idle series were last looked for because of the limit.
	lastSweep time.Time
}

// NewMetrics makes the connection metrics and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		access: slog.New(slog.DiscardHandler),
		sockets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istio_tcp_sockets_open", Help: "Accepted sockets that are open.",
		}, []string{"reporter"}),
		overflow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_telemetry_overflow_total",
			Help: "Connections counted without their labels because there were too many series.",
		}),
		series:   map[labels]*series{},
		followed: map[*Conn]struct{}{},
	}
	reg.MustRegister(m.sockets, m.overflow, connectionCollector{m})
	return m
}

// LogAccess makes log, in scope access, the place of the access log. Without it there is none. Call it before the first
// connection.
func (m *Metrics) LogAccess(log *slog.Logger) { m.access = log.With("scope", "access") }

// Sockets counts accepted sockets that are open: Inc and Dec it.
func (m *Metrics) Sockets(reporter Reporter) prometheus.Gauge {
	return m.sockets.WithLabelValues(string(reporter))
}

// Conn is an open connection. Its methods may be called from any goroutine.
type Conn struct {
	metrics *Metrics
	series  *series
	info    Connection
	start   time.Time
	closed  atomic.Bool

	mu     sync.Mutex
	counts func() (sent, received uint64)
	// Bytes so far, as told by counts.
	sent, received uint64
}

// Open counts a connection as opened. Close must follow.
func (m *Metrics) Open(info Connection) *Conn {
	c := m.open(info)
	c.logOpened()
	return c
}

func (m *Metrics) open(info Connection) *Conn {
	key := labelsOf(info)
	now := time.Now()
	m.mu.Lock()
	s := m.seriesLocked(key, now)
	s.live++
	m.mu.Unlock()
	s.opened.Add(1)
	return &Conn{metrics: m, series: s, info: info, start: now}
}

// Refuse counts and logs a connection that was turned away before anything was done for it: opened, closed and failed.
func (m *Metrics) Refuse(info Connection, flags string, err error) {
	c := m.open(info)
	c.finish(flags)
	c.logRefused(err)
}

// Follow has the bytes so far asked for at every scrape and at Close. counts returns totals as the reporter's own pod
// sees them: sent are the bytes that it sent, whether it is client or server. The access log shows them so. The metrics of
// both reporters call received what the client sent, and sent what the server did; that turn is made here. counts must
// not block, and may be called from any goroutine until Close returns.
func (c *Conn) Follow(counts func() (sent, received uint64)) {
	c.mu.Lock()
	c.counts = counts
	c.mu.Unlock()
	c.metrics.mu.Lock()
	defer c.metrics.mu.Unlock()
	if !c.closed.Load() {
		c.metrics.followed[c] = struct{}{}
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
	if c.info.Reporter == Source {
		newSent, newReceived = newReceived, newSent
	}
	c.series.sent.Add(newSent)
	c.series.received.Add(newReceived)
}

// Close counts the connection as closed, and as failed if flags isn't FlagNone, and writes its access-log line: with err
// it is an error. Only the first call counts.
func (c *Conn) Close(flags string, err error) {
	if c.finish(flags) {
		c.logClosed(err)
	}
}

// finish returns false if it was done before.
func (c *Conn) finish(flags string) bool {
	if c.closed.Swap(true) {
		return false
	}
	c.update()
	flag := flagIndex(flags)
	c.series.closed[flag].Add(1)
	if flag != 0 {
		c.series.failed[flag].Add(1)
	}
	m := c.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.followed, c)
	c.series.live--
	c.series.idleSince = time.Now()
	return true
}
