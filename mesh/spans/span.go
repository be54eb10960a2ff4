package spans

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// traceContext is what a traceparent header says (W3C Trace Context, version 00).
type traceContext struct {
	trace   [16]byte
	span    [8]byte
	sampled bool
}

const contextLength = 55

func parseContext(text string) (c traceContext, ok bool) {
	if len(text) != contextLength || text[:3] != "00-" || text[35] != '-' || text[52] != '-' {
		return c, false
	}
	var flags [1]byte
	for _, part := range []struct {
		into []byte
		text string
	}{{c.trace[:], text[3:35]}, {c.span[:], text[36:52]}, {flags[:], text[53:]}} {
		if _, err := hex.Decode(part.into, []byte(part.text)); err != nil {
			return traceContext{}, false
		}
	}
	c.sampled = flags[0]&1 != 0
	return c, c.trace != [16]byte{} && c.span != [8]byte{}
}

// newContext begins a trace.
func newContext() (c traceContext) {
	_, _ = rand.Read(c.trace[:]) // never fails, see crypto/rand
	_, _ = rand.Read(c.span[:])
	return c
}

// String returns the traceparent header.
func (c traceContext) String() string {
	flags := "00"
	if c.sampled {
		flags = "01"
	}
	return "00-" + hex.EncodeToString(c.trace[:]) + "-" + hex.EncodeToString(c.span[:]) + "-" + flags
}

// span describes a connection. The client's side is the span that the traceparent names; the server's is below it.
func span(e *telemetry.Ended) *tracepb.Span {
	c, _ := parseContext(e.Trace) // the sampler saw to it
	s := &tracepb.Span{
		TraceId: c.trace[:], SpanId: c.span[:], Name: "outbound", Kind: tracepb.Span_SPAN_KIND_CLIENT, Flags: 1, // sampled
		StartTimeUnixNano: uint64(e.Start.UnixNano()), EndTimeUnixNano: uint64(e.End.UnixNano()),
		Attributes: attributes(e), Status: &tracepb.Status{},
	}
	if e.Reporter == telemetry.Destination {
		own := newContext().span
		s.ParentSpanId, s.SpanId = s.SpanId, own[:]
		s.Name, s.Kind = "inbound", tracepb.Span_SPAN_KIND_SERVER
	}
	if e.Err != nil {
		s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: e.Err.Error()}
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
