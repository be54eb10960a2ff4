package spans

import (
	"maps"
	"slices"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// span describes a connection, whose trace the sampler has seen to. The client's side is the span that the traceparent names; the server's is below it.
func span(e *telemetry.Ended) *tracepb.Span {
	s := &tracepb.Span{
		TraceId: e.Trace.TraceID[:], SpanId: e.Trace.SpanID[:], Name: "outbound", Kind: tracepb.Span_SPAN_KIND_CLIENT, Flags: 1, // sampled
		StartTimeUnixNano: uint64(e.Start.UnixNano()), EndTimeUnixNano: uint64(e.End.UnixNano()),
		Attributes: attributes(e), Status: &tracepb.Status{},
	}
	if e.Request != nil {
		return request(s, e)
	}
	if e.Reporter != telemetry.Source {
		own := trace.New().SpanID
		s.ParentSpanId, s.SpanId = s.SpanId, own[:]
		s.Name, s.Kind = "inbound", tracepb.Span_SPAN_KIND_SERVER
	}
	if e.Err != nil {
		s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: e.Err.Error()}
	}
	return s
}

// request makes the span that of a request, with the names of OpenTelemetry's conventions.
func request(s *tracepb.Span, e *telemetry.Ended) *tracepb.Span {
	r := e.Request
	s.Name, s.Kind = r.Method, tracepb.Span_SPAN_KIND_SERVER
	if r.Route != "" {
		s.Name += " " + r.Route
	}
	if r.Try > 0 { // as Envoy names it
		s.Name, s.Kind = "router "+e.Service+" egress", tracepb.Span_SPAN_KIND_CLIENT
		s.Attributes = append(s.Attributes, text("peer.service", e.Service))
	}
	if r.Try > 1 {
		s.Attributes = append(s.Attributes, number("retry.count", uint64(r.Try-1)))
	}
	if r.Parent != [8]byte{} {
		s.ParentSpanId = r.Parent[:]
	}
	for _, a := range [...]struct{ key, value string }{
		{"http.request.method", r.Method}, {"url.path", r.Path}, {"server.address", r.Authority}, {"rpc.grpc.status_code", r.GRPCStatus}, {"tulle.route", r.Route},
	} {
		if a.value != "" {
			s.Attributes = append(s.Attributes, text(a.key, a.value))
		}
	}
	if r.Code > 0 {
		s.Attributes = append(s.Attributes, number("http.response.status_code", uint64(r.Code)))
	}
	if r.Code >= 500 || r.Code == 0 {
		s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	}
	return s
}

// attributes are named as in the access log, and have its order.
func attributes(e *telemetry.Ended) []*commonpb.KeyValue {
	list := make([]*commonpb.KeyValue, 0, 16)
	add := func(key, value string) {
		if value != "" {
			list = append(list, text(key, value))
		}
	}
	peer := func(end string, p *telemetry.Peer) {
		name := p.Pod
		if name == "" {
			name = p.CanonicalName
		}
		add(end+".workload", name)
		add(end+".namespace", p.Namespace)
		if e.MTLS {
			add(end+".identity", p.Identity.String())
		}
		add(end+".cluster", p.Cluster)
	}
	if e.Src.IsValid() {
		add("src.addr", e.Src.String())
	}
	peer("src", &e.Source)
	if e.Dst.IsValid() {
		add("dst.addr", e.Dst.String())
	}
	add("dst.hbone_addr", e.HBONEDst)
	add("dst.service", e.Service)
	peer("dst", &e.Destination)
	direction := "inbound"
	if e.Reporter == telemetry.Source {
		direction = "outbound"
	}
	add("direction", direction)
	list = append(list, number("bytes_sent", e.Sent), number("bytes_recv", e.Received))
	add("response_flags", e.Flags)
	return list
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func number(key string, value uint64) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(value)}}}
}

func texts(values map[string]string) (list []*commonpb.KeyValue) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list = append(list, text(key, values[key]))
	}
	return list
}
