package telemetry

import (
	"log/slog"
	"net/netip"
	"time"
)

// RequestLine is what the access log tells of a request. An empty field is left out.
type RequestLine struct {
	Kind           *RequestKind
	Start          time.Time
	Took           time.Duration
	Received, Sent uint64 // bytes of bodies
	Client, Server netip.AddrPort

	Method, Path, Authority string
	// Fields returns a header of the request, or "".
	Fields func(name string) string
	// Route is the one that decided, such as HTTPRoute/shop/web; Policy the one that refused; Details says why it was answered so.
	Route, Policy, Details string
	Tries                  int
}

// requestFields are the headers that the access log tells, by the names that Istio's has for them.
var requestFields = [...]struct{ key, name string }{
	{"user_agent", "user-agent"}, {"request_id", "x-request-id"}, {"x_forwarded_for", "x-forwarded-for"}, {"traceparent", "traceparent"},
}

// Request writes the line of a request that has ended.
func (a *AccessLog) Request(r *RequestLine) {
	level := slog.LevelInfo
	if r.Kind.Flags != FlagNone {
		level = slog.LevelWarn
	}
	if !a.enabled(level) {
		return
	}
	f := a.begin(level, "request complete", r.Start.Add(r.Took))
	f.text("method", r.Method)
	f.text("path", r.Path)
	f.text("authority", r.Authority)
	protocol := "http"
	if r.Kind.GRPC {
		protocol = "grpc"
	}
	f.text("protocol", protocol)
	f.number("response_code", uint64(max(r.Kind.Code, 0)))
	f.text("grpc_status", r.Kind.GRPCStatus)
	f.text("response_flags", r.Kind.Flags)
	f.text("response_code_details", r.Details)
	f.number("bytes_received", r.Received)
	f.number("bytes_sent", r.Sent)
	f.milliseconds("duration", r.Took)
	if r.Tries > 1 {
		f.number("tries", uint64(r.Tries))
	}
	f.text("route_name", r.Route)
	f.text("policy", r.Policy)
	f.address("downstream_remote_address", r.Client)
	f.address("upstream_host", r.Server)
	f.text("upstream_cluster", r.Kind.Service)
	f.text("src.workload", r.Kind.Source.Workload)
	f.text("src.namespace", r.Kind.Source.Namespace)
	f.text("src.identity", r.Kind.Source.Identity.String())
	f.text("dst.workload", r.Kind.Destination.Workload)
	f.text("dst.namespace", r.Kind.Destination.Namespace)
	for _, h := range requestFields {
		f.text(h.key, r.Fields(h.name))
	}
	a.write(f)
}
