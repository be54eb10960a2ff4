package telemetry

import (
	"bufio"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// RequestKind is what requests that are counted together have in common.
type RequestKind struct {
	Source, Destination                    Peer
	Service, ServiceNamespace, ServiceName string
	MTLS                                   bool
	GRPC                                   bool
	Code                                   int    // the answer's status; 0 if there was none
	GRPCStatus                             string // as the server said it
	Flags                                  string // Envoy's response flags; FlagNone if all is well
}

// requestLabels tell series of requests apart.
type requestLabels struct {
	labels
	grpc       bool
	code       int
	grpcStatus string
	flags      string
}

func (l *requestLabels) own() {
	l.labels.own()
	intern(&l.grpcStatus, &l.flags)
}

func (l requestLabels) plain() requestLabels {
	return requestLabels{labels: labels{reporter: l.reporter, mtls: l.mtls}, grpc: l.grpc, code: l.code, flags: l.flags}
}

// The upper bounds of the histograms, as Istio's proxies have them: milliseconds, and bytes.
var (
	durationBounds = [...]uint64{1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}
	sizeBounds     = [...]uint64{1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000}
)

// requestCounts are the counters of requests of one kind.
type requestCounts struct {
	count           atomic.Uint64
	duration        [len(durationBounds) + 1]atomic.Uint64 // of the bounds, and beyond
	milliseconds    atomic.Uint64                          // the sum, in microseconds
	sent, received  [len(sizeBounds) + 1]atomic.Uint64
	sentB, receiveB atomic.Uint64

	requestMessages, responseMessages atomic.Uint64 // of gRPC
}

// Requests counts requests of one kind. Its methods may be called from any goroutine.
type Requests struct {
	series *series[requestLabels, requestCounts]
}

// Requests returns the counter for a kind of requests. Whoever asks keeps it while more of the kind may come, and must release it.
func (m *Metrics) Requests(k *RequestKind) *Requests {
	conn := Connection{
		Reporter: Waypoint, Source: k.Source, Destination: k.Destination, MTLS: k.MTLS,
		Service: k.Service, ServiceNamespace: k.ServiceNamespace, ServiceName: k.ServiceName,
	}
	key := requestLabels{labels: labelsOf(&conn), grpc: k.GRPC, code: k.Code, grpcStatus: bounded(k.GRPCStatus), flags: k.Flags}
	s, overflow := m.requests.find(&key, time.Now())
	if overflow {
		m.overflow.Inc()
	}
	return &Requests{s}
}

// Ended counts a request: how long it took, and the bytes of its body and of its answer's.
func (r *Requests) Ended(took time.Duration, received, sent uint64) {
	c := &r.series.counts
	c.count.Add(1)
	took = max(took, 0)
	c.duration[bucket(durationBounds[:], uint64((took+time.Millisecond-1)/time.Millisecond))].Add(1)
	c.milliseconds.Add(uint64(took / time.Microsecond))
	c.received[bucket(sizeBounds[:], received)].Add(1)
	c.receiveB.Add(received)
	c.sent[bucket(sizeBounds[:], sent)].Add(1)
	c.sentB.Add(sent)
}

// Messages counts those of gRPC that requests and their answers have carried.
func (r *Requests) Messages(requests, responses uint64) {
	r.series.counts.requestMessages.Add(requests)
	r.series.counts.responseMessages.Add(responses)
}

// Release lets go of the counter.
func (r *Requests) Release() { r.series.release(time.Now()) }

// bucket finds the first bound that isn't less.
func bucket(bounds []uint64, value uint64) int {
	i, _ := slices.BinarySearch(bounds, value)
	return i
}

// requestLabelNames are labelNames with what only requests have, and without what only connections do.
var requestLabelNames = [...]string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_cluster",
	"request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
}

// values are in the order of requestLabelNames.
func (l *requestLabels) values() []string {
	const common = 20 // up to destination_cluster
	conn := l.labels.values(l.flags)
	protocol := "http"
	if l.grpc {
		protocol = "grpc"
	}
	return append(conn[:common:common], protocol, strconv.Itoa(l.code), l.grpcStatus, l.flags, conn[common+2])
}

// writeRequests writes the metrics of requests, if there are any.
func (m *Metrics) writeRequests(out *bufio.Writer, openMetrics bool) {
	list := m.requests.scrape(time.Now())
	if len(list) == 0 {
		return
	}
	values := make([][]string, len(list))
	for i, s := range list {
		values[i] = s.labels.values()
	}
	var line []byte
	for _, c := range requestCounters {
		line = (&family{name: c.name, help: c.help}).appendHead(line[:0], openMetrics)
		_, _ = out.Write(line)
		for i, s := range list {
			if c.grpc && !s.labels.grpc {
				continue
			}
			line = append(append(line[:0], c.name...), "_total"...)
			line = appendLabels(line, requestLabelNames[:], values[i])
			line = strconv.AppendUint(append(line, "} "...), c.count(&s.counts).Load(), 10)
			_, _ = out.Write(append(line, '\n'))
		}
	}
	for _, h := range histograms {
		_, _ = out.WriteString("# HELP " + h.name + " " + h.help + "\n# TYPE " + h.name + " histogram\n")
		for i, s := range list {
			line = h.append(line[:0], values[i], &s.counts)
			_, _ = out.Write(line)
		}
	}
}

// requestCounters are the counters of all series of requests, or of those of gRPC.
var requestCounters = [...]struct {
	name, help string
	grpc       bool
	count      func(c *requestCounts) *atomic.Uint64
}{
	{"istio_requests", "Requests.", false, func(c *requestCounts) *atomic.Uint64 { return &c.count }},
	{"istio_request_messages", "Messages of gRPC that clients have sent.", true, func(c *requestCounts) *atomic.Uint64 { return &c.requestMessages }},
	{"istio_response_messages", "Messages of gRPC that servers have sent.", true, func(c *requestCounts) *atomic.Uint64 { return &c.responseMessages }},
}

// histogram is one metric of all series of requests.
type histogram struct {
	name, help string
	bounds     []uint64
	buckets    func(c *requestCounts) []atomic.Uint64
	sum        func(c *requestCounts) float64
}

var histograms = [...]histogram{
	{"istio_request_duration_milliseconds", "How long requests took, to the end of the answer.", durationBounds[:],
		func(c *requestCounts) []atomic.Uint64 { return c.duration[:] }, func(c *requestCounts) float64 { return float64(c.milliseconds.Load()) / 1000 }},
	{"istio_request_bytes", "Bytes of requests' bodies.", sizeBounds[:],
		func(c *requestCounts) []atomic.Uint64 { return c.received[:] }, func(c *requestCounts) float64 { return float64(c.receiveB.Load()) }},
	{"istio_response_bytes", "Bytes of answers' bodies.", sizeBounds[:],
		func(c *requestCounts) []atomic.Uint64 { return c.sent[:] }, func(c *requestCounts) float64 { return float64(c.sentB.Load()) }},
}

func (h *histogram) append(line []byte, values []string, c *requestCounts) []byte {
	sum, buckets := uint64(0), h.buckets(c)
	sample := func(suffix string) {
		line = append(line, h.name...)
		line = append(line, suffix...)
		line = appendLabels(line, requestLabelNames[:], values)
	}
	for i := range buckets {
		sum += buckets[i].Load()
		sample("_bucket")
		line = append(line, `,le="`...)
		if i < len(h.bounds) {
			line = strconv.AppendUint(line, h.bounds[i], 10)
		} else {
			line = append(line, "+Inf"...)
		}
		line = strconv.AppendUint(append(line, `"} `...), sum, 10)
		line = append(line, '\n')
	}
	sample("_sum")
	line = strconv.AppendFloat(append(line, "} "...), h.sum(c), 'f', -1, 64)
	line = append(line, '\n')
	sample("_count")
	line = strconv.AppendUint(append(line, "} "...), sum, 10)
	return append(line, '\n')
}
