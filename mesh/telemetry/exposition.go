package telemetry

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"time"
)

// The text of connection metrics, in Prometheus's text format 0.0.4 or OpenMetrics 1.0. It is written here rather than by
// the Prometheus library because the labels are to have Istio's order, which a registry doesn't keep, and because 27 labels
// for each of ten thousand series are not to become objects first.

// labelNames are the labels in the order in which Istio lists them.
var labelNames = [...]string{
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
func (l *labels) values(flag string) [len(labelNames)]string {
	security := unknown
	if l.mtls {
		security = "mutual_tls"
	}
	src, dst := &l.source, &l.destination
	return [...]string{
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
}

// family is one metric of all series. It has a value for each flag, or only one for FlagNone.
type family struct {
	name, help string // name without _total
	flagged    bool
	value      func(c *connCounts, flag int) uint64
}

var families = [...]family{
	{"istio_tcp_connections_closed", "Connections closed, those that failed included.", true,
		func(c *connCounts, flag int) uint64 { return c.closed[flag].Load() }},
	{"istio_tcp_connections_failed", "Connections that failed, response_flags says why.", true,
		func(c *connCounts, flag int) uint64 { return c.failed[flag].Load() }},
	{"istio_tcp_connections_opened", "Connections opened.", false,
		func(c *connCounts, _ int) uint64 { return c.opened.Load() }},
	{"istio_tcp_received_bytes", "Bytes from clients to servers.", false,
		func(c *connCounts, _ int) uint64 { return c.received.Load() }},
	{"istio_tcp_sent_bytes", "Bytes from servers to clients.", false,
		func(c *connCounts, _ int) uint64 { return c.sent.Load() }},
}

// Expose writes all connection metrics, in the text format 0.0.4 or in OpenMetrics without its last line.
func (m *Metrics) Expose(w io.Writer, openMetrics bool) error {
	m.update()
	list := m.series.scrape(time.Now())
	out := bufio.NewWriterSize(w, 16<<10)
	var line []byte
	for _, f := range families {
		line = f.appendHead(line[:0], openMetrics)
		_, _ = out.Write(line) // the writer keeps the error for Flush
		for _, s := range list {
			for flag := range allFlags {
				value := f.value(&s.counts, flag)
				if f.flagged && value == 0 {
					continue
				}
				line = appendSample(line[:0], f.name, s.labels.values(allFlags[flag]), value)
				_, _ = out.Write(line)
				if !f.flagged {
					break
				}
			}
		}
	}
	m.writeRequests(out, openMetrics)
	return out.Flush()
}

func (f *family) appendHead(line []byte, openMetrics bool) []byte {
	name := f.name
	if !openMetrics {
		name += "_total"
	}
	line = append(line, "# HELP "...)
	line = append(line, name...)
	line = append(line, ' ')
	line = append(line, f.help...)
	line = append(line, "\n# TYPE "...)
	line = append(line, name...)
	return append(line, " counter\n"...)
}

func appendSample(line []byte, name string, values [len(labelNames)]string, value uint64) []byte {
	line = append(line, name...)
	line = append(line, "_total"...)
	line = appendLabels(line, labelNames[:], values[:])
	line = append(line, '}', ' ')
	line = strconv.AppendUint(line, value, 10)
	return append(line, '\n')
}

// appendLabels leaves it to the caller to close the brace.
func appendLabels(line []byte, names, values []string) []byte {
	separator := byte('{')
	for i := range names {
		line = append(line, separator)
		line = append(line, names[i]...)
		line = append(line, '=', '"')
		line = appendLabelValue(line, values[i])
		line = append(line, '"')
		separator = ','
	}
	return line
}

// appendLabelValue escapes what both formats say must be.
func appendLabelValue(line []byte, value string) []byte {
	if value == "" {
		return append(line, unknown...)
	}
	if !strings.ContainsAny(value, "\"\\\n") {
		return append(line, value...)
	}
	for i := range len(value) {
		switch c := value[i]; c {
		case '"', '\\':
			line = append(line, '\\', c)
		case '\n':
			line = append(line, '\\', 'n')
		default:
			line = append(line, c)
		}
	}
	return line
}
