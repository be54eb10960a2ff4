package serve

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// traced makes the request a span of its trace, or of a new one, if spans are made; else what the client says of a trace goes on as it is. Both
// W3C Trace Context and B3 are read; the server is told in the client's way, and in W3C's.
func (r *request) traced() {
	metrics := r.session.handler.cfg.Metrics
	if !metrics.Traces() {
		return
	}
	text, _ := exchange.Get(r.head.Fields, "traceparent")
	above, ok := trace.Parse(text)
	decided := ok
	if !ok { // then what belongs to it means nothing either (W3C Trace Context section 3.3)
		r.head.Fields = exchange.Remove(r.head.Fields, "tracestate")
		above, ok, decided = parseB3(r.head.Fields)
	}
	r.trace = trace.New()
	if ok {
		r.parent, r.trace.TraceID = above.SpanID, above.TraceID
	}
	switch {
	case decided && metrics.Follows():
		r.trace.Flags = above.Flags
	case metrics.Sampled(r.trace):
		r.trace = r.trace.WithSampled()
	}
	r.head.Fields = told(r.head.Fields, r.trace, r.parent)
}

// told puts a span and the one above it into the fields that tell of them.
func told(fields []exchange.Field, c trace.Context, parent [8]byte) []exchange.Field {
	fields = exchange.Set(fields, "traceparent", c.String())
	span, sampled := hex.EncodeToString(c.SpanID[:]), "0"
	if c.Sampled() {
		sampled = "1"
	}
	if _, b3 := exchange.Get(fields, "x-b3-traceid"); b3 {
		fields = exchange.Set(fields, "x-b3-spanid", span)
		fields = exchange.Set(fields, "x-b3-parentspanid", hex.EncodeToString(parent[:]))
		fields = exchange.Set(fields, "x-b3-sampled", sampled)
	}
	if _, b3 := exchange.Get(fields, "b3"); b3 {
		fields = exchange.Set(fields, "b3", hex.EncodeToString(c.TraceID[:])+"-"+span+"-"+sampled)
	}
	return fields
}

// traced makes the try a span below its request's, if there are spans.
func (t *try) traced() {
	if t.request.trace.Sampled() {
		t.trace = t.request.trace
		t.trace.SpanID = trace.New().SpanID
	}
}

// span has a span made of the try, with Envoy's flag for how it ended.
func (t *try) span(flag string) {
	if !t.trace.Sampled() {
		return
	}
	r := t.request
	now := r.session.handler.cfg.Worker.Now()
	e := telemetry.Ended{
		Connection: telemetry.Connection{
			Reporter: telemetry.Waypoint, Source: r.session.source, Destination: describe.Peer(t.endpoint.Workload), MTLS: t.endpoint.Tunnelled(),
			Src: r.session.client, Dst: t.endpoint.Addr, Trace: t.trace, Start: t.started,
		},
		End: now, Flags: flag,
		Request: &telemetry.RequestSpan{Parent: r.trace.SpanID, Method: r.head.Method, Path: r.head.Path, Authority: r.head.Authority, GRPC: r.grpc, Code: t.code, Try: t.number},
	}
	if svc := t.endpoint.Service; svc != nil {
		e.Service = svc.Hostname
	}
	r.session.handler.cfg.Metrics.EndRequest(e)
}

// parseB3 reads Zipkin's headers: one, or one for each part. Whether the trace is recorded may be decided without any trace yet, or be left to us.
func parseB3(fields []exchange.Field) (c trace.Context, ok, decided bool) {
	id, _ := exchange.Get(fields, "x-b3-traceid")
	span, _ := exchange.Get(fields, "x-b3-spanid")
	sampled, _ := exchange.Get(fields, "x-b3-sampled")
	if debug, _ := exchange.Get(fields, "x-b3-flags"); debug == "1" {
		sampled = "d"
	}
	if one, single := exchange.Get(fields, "b3"); single {
		parts := append(strings.SplitN(one, "-", 4), "", "")
		if id, span, sampled = parts[0], parts[1], parts[2]; span == "" {
			id, sampled = "", id
		}
	}
	if len(id) == 16 { // the short form
		id = strings.Repeat("0", 16) + id
	}
	c, ok = trace.Parse("00-" + id + "-" + span + "-00")
	switch sampled {
	case "1", "d", "true":
		return c.WithSampled(), ok, true
	case "0", "false":
		return c, ok, true
	}
	return c, ok, false
}

// span has a span made of the request, if its trace is sampled.
func (r *request) span(kind *telemetry.RequestKind, took time.Duration) {
	if !r.trace.Sampled() {
		return
	}
	r.session.handler.cfg.Metrics.EndRequest(telemetry.Ended{
		Connection: telemetry.Connection{
			Reporter: telemetry.Waypoint, Source: kind.Source, Destination: describe.Peer(r.endpoint.Workload), Service: kind.Service, MTLS: true,
			Src: r.session.client, Dst: r.endpoint.Addr, Trace: r.trace, Start: r.start,
		},
		End: r.start.Add(took), Sent: r.sent, Received: r.body.total, Flags: r.flags,
		Request: &telemetry.RequestSpan{
			Parent: r.parent, Method: r.head.Method, Path: r.head.Path, Authority: r.head.Authority, GRPC: r.grpc, Code: r.code, GRPCStatus: r.grpcStatus, Route: r.route(),
		},
	})
}
