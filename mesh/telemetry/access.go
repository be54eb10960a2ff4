package telemetry

import (
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// accessScope is the scope of the access log's lines.
const accessScope = "access"

// AccessLog writes a line for each connection that ends. Attributes have a fixed order; what isn't known is left out. The
// nil AccessLog writes nothing.
type AccessLog struct {
	w      io.Writer
	json   bool
	levels *Levels
	pool   sync.Pool // of *fields
}

// NewAccessLog makes an access log in the form of NewLogger's lines, with the scope "access". Each line is one Write of w,
// which must take calls from several goroutines and must not block: a Writer does that.
func NewAccessLog(w io.Writer, format string, levels *Levels) *AccessLog {
	return &AccessLog{w: w, json: format == "json", levels: levels, pool: sync.Pool{New: func() any { return new(fields) }}}
}

func (a *AccessLog) opened(c *Conn) {
	if a.enabled(slog.LevelDebug) {
		l := a.begin(slog.LevelDebug, "connection opened", c.start)
		l.connection(c)
		a.write(l)
	}
}

func (a *AccessLog) complete(c *Conn, now time.Time, err error) {
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelError
	}
	if !a.enabled(level) {
		return
	}
	l := a.begin(level, "connection complete", now)
	l.connection(c)
	sent, received := c.totals()
	l.number("bytes_sent", sent)
	l.number("bytes_recv", received)
	l.milliseconds("duration", now.Sub(c.start))
	l.failure(err)
	a.write(l)
}

func (a *AccessLog) refused(c *Conn, now time.Time, err error) {
	if a.enabled(slog.LevelWarn) {
		l := a.begin(slog.LevelWarn, "connection failed", now)
		l.connection(c)
		l.failure(err)
		a.write(l)
	}
}

func (a *AccessLog) enabled(level slog.Level) bool {
	return a != nil && level >= a.levels.of(accessScope)
}

func (a *AccessLog) begin(level slog.Level, message string, now time.Time) *fields {
	f := a.pool.Get().(*fields)
	f.json = a.json
	f.line = appendHead(f.line[:0], a.json, head{now, level, accessScope, message})
	f.head = len(f.line)
	return f
}

func (a *AccessLog) write(f *fields) {
	f.line = finishLine(f.line, f.head, f.json)
	_, _ = a.w.Write(f.line) // a Writer never fails
	if cap(f.line) <= maxKeptLine {
		a.pool.Put(f)
	}
}

// fields is a line that is being written.
type fields struct {
	line []byte
	head int // where the first attribute begins
	json bool
}

func (f *fields) connection(c *Conn) {
	l := &c.series.labels
	f.address("src.addr", c.src)
	f.peer(&sourceKeys, &l.source, c.sourcePod)
	f.address("dst.addr", c.dst)
	f.authority("dst.hbone_addr", c.hboneDst)
	f.text("dst.service", l.service)
	f.peer(&destinationKeys, &l.destination, c.destinationPod)
	direction := "inbound"
	if l.reporter == Source {
		direction = "outbound"
	}
	f.text("direction", direction)
}

// peerKeys are the attribute names of one end.
type peerKeys struct{ workload, namespace, identity, cluster string }

var (
	sourceKeys      = peerKeys{"src.workload", "src.namespace", "src.identity", "src.cluster"}
	destinationKeys = peerKeys{"dst.workload", "dst.namespace", "dst.identity", "dst.cluster"}
)

func (f *fields) peer(keys *peerKeys, p *Peer, pod string) {
	if pod == "" {
		pod = p.CanonicalName
	}
	f.text(keys.workload, bounded(pod))
	f.text(keys.namespace, p.Namespace)
	f.text(keys.identity, p.Identity.String()) // there is none without mutual TLS
	f.text(keys.cluster, p.Cluster)
}

func (f *fields) text(key, value string) {
	if value != "" {
		f.key(key)
		f.line = appendQuoted(f.line, value)
	}
}

func (f *fields) address(key string, value netip.AddrPort) {
	if value.IsValid() {
		f.key(key)
		f.quote()
		f.line = value.AppendTo(f.line)
		f.quote()
	}
}

func (f *fields) authority(key, value string) {
	if value != "" {
		f.key(key)
		if f.json || !plainAddress(value) {
			f.line = appendQuoted(f.line, value)
		} else {
			f.line = append(f.line, value...)
		}
	}
}

func (f *fields) number(key string, value uint64) {
	f.key(key)
	f.line = strconv.AppendUint(f.line, value, 10)
}

func (f *fields) milliseconds(key string, d time.Duration) {
	f.key(key)
	f.line = append(f.line, '"')
	f.line = strconv.AppendUint(f.line, uint64(max(d.Milliseconds(), 0)), 10)
	f.line = append(f.line, `ms"`...)
}

func (f *fields) failure(err error) {
	if err != nil {
		f.key("error")
		f.line = appendQuoted(f.line, err.Error())
	}
}

// key begins an attribute. The keys are ours and need no escapes.
func (f *fields) key(key string) {
	if f.json {
		f.line = append(f.line, ',', '"')
		f.line = append(f.line, key...)
		f.line = append(f.line, '"', ':')
		return
	}
	f.line = append(f.line, ' ')
	f.line = append(f.line, key...)
	f.line = append(f.line, '=')
}

func (f *fields) quote() {
	if f.json {
		f.line = append(f.line, '"')
	}
}
