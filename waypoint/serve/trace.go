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
	if !ok {
		above, ok = parseB3(r.head.Fields)
	}
	r.trace = trace.New()
	if ok {
		r.parent, r.trace.TraceID, r.trace.Flags = above.SpanID, above.TraceID, above.Flags
	} else if metrics.Sampled(r.trace) {
		r.trace = r.trace.WithSampled()
	}
	r.head.Fields = exchange.Set(r.head.Fields, "traceparent", r.trace.String())
	span := hex.EncodeToString(r.trace.SpanID[:])
	if _, b3 := exchange.Get(r.head.Fields, "x-b3-traceid"); b3 {
		r.head.Fields = exchange.Set(r.head.Fields, "x-b3-spanid", span)
		r.head.Fields = exchange.Set(r.head.Fields, "x-b3-parentspanid", hex.EncodeToString(r.parent[:]))
	}
	if _, b3 := exchange.Get(r.head.Fields, "b3"); b3 {
		sampled := "0"
		if r.trace.Sampled() {
			sampled = "1"
		}
		r.head.Fields = exchange.Set(r.head.Fields, "b3", hex.EncodeToString(r.trace.TraceID[:])+"-"+span+"-"+sampled)
	}
}

// parseB3 reads Zipkin's headers: one, or one for each part.
func parseB3(fields []exchange.Field) (c trace.Context, ok bool) {
	id, _ := exchange.Get(fields, "x-b3-traceid")
	span, _ := exchange.Get(fields, "x-b3-spanid")
	sampled, _ := exchange.Get(fields, "x-b3-sampled")
	if one, single := exchange.Get(fields, "b3"); single {
		parts := strings.SplitN(one, "-", 4)
		if len(parts) < 2 {
			return c, false
		}
		id, span, sampled = parts[0], parts[1], ""
		if len(parts) > 2 {
			sampled = parts[2]
		}
	}
	if len(id) == 16 { // the short form
		id = strings.Repeat("0", 16) + id
	}
	flags := "00"
	if sampled == "1" || sampled == "d" || sampled == "true" {
		flags = "01"
	}
	return trace.Parse("00-" + id + "-" + span + "-" + flags)
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
