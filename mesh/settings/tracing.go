package settings

import (
	"fmt"
	"maps"
	"net/url"
	"strings"
	"time"
)

// Tracing says whether spans are made of connections, and who gets them: OpenTelemetry's variables, with its defaults but
// for one, that nothing is sent unless OTEL_TRACES_EXPORTER says so.
type Tracing struct {
	On       bool
	GRPC     bool
	Endpoint string // URL, with the path for HTTP
	Headers  map[string]string
	Timeout  time.Duration
	Gzip     bool

	RootCA, ClientCert, ClientKey string // paths
	Sampler, SamplerArgument      string
	Resource                      map[string]string
}

// maxPairs bounds headers and resource attributes.
const maxPairs = 64

// ReadTracing reads them; service is the name of the program in spans if nothing else is said.
func ReadTracing(e *Env, service string) Tracing {
	exporter := e.OneOf("OTEL_TRACES_EXPORTER", "none", "otlp")
	if exporter != "otlp" || e.Boolean("OTEL_SDK_DISABLED", false) {
		return Tracing{} // and what the others say may be meant for another program
	}
	t := Tracing{
		On:         true,
		GRPC:       otlpChoice(e, "protocol", "http/protobuf", "grpc") == "grpc",
		Headers:    pairs(e, otlpName(e, "headers")),
		Timeout:    time.Duration(e.Number(otlpName(e, "timeout"), 10_000, 1, 600_000)) * time.Millisecond,
		Gzip:       otlpChoice(e, "compression", "none", "gzip") == "gzip",
		RootCA:     e.Text(otlpName(e, "certificate"), ""),
		ClientCert: e.Text(otlpName(e, "client_certificate"), ""),
		ClientKey:  e.Text(otlpName(e, "client_key"), ""),
		Sampler:    e.Text("OTEL_TRACES_SAMPLER", ""), SamplerArgument: e.Text("OTEL_TRACES_SAMPLER_ARG", ""),
		Resource: map[string]string{"service.name": service},
	}
	maps.Copy(t.Resource, pairs(e, "OTEL_RESOURCE_ATTRIBUTES"))
	if name, set := e.Lookup("OTEL_SERVICE_NAME"); set {
		t.Resource["service.name"] = name
	}
	t.Endpoint = otlpEndpoint(e, t.GRPC)
	return t
}

// otlp is what the variables for the collector begin with.
const otlp = "OTEL_EXPORTER_OTLP_"

// otlpName returns the variable for traces if that is set, else the one for all signals.
func otlpName(e *Env, what string) string {
	what = strings.ToUpper(what)
	if name := otlp + "TRACES_" + what; e.vars[name] != "" {
		return name
	}
	return otlp + what
}

func otlpChoice(e *Env, what string, choices ...string) string {
	return e.OneOf(otlpName(e, what), choices...)
}

// otlpEndpoint returns the collector's URL. The address for all signals is a base, to which HTTP adds a path.
func otlpEndpoint(e *Env, grpc bool) string {
	name, address := otlpName(e, "endpoint"), "http://localhost:4318"
	if grpc {
		address = "http://localhost:4317"
	}
	address = e.Text(name, address)
	if grpc && !strings.Contains(address, "://") {
		scheme := "https://"
		if e.Boolean(otlpName(e, "insecure"), false) {
			scheme = "http://"
		}
		address = scheme + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		e.Fail(name, fmt.Sprintf("%q is no collector's address such as http://collector:4318", address))
		return ""
	}
	if !strings.HasPrefix(name, otlp+"TRACES_") && !grpc {
		u = u.JoinPath("v1", "traces")
	}
	return u.String()
}

// pairs reads a list such as a=1,b=two%20words (W3C Baggage).
func pairs(e *Env, name string) map[string]string {
	list := map[string]string{}
	text, _ := e.Lookup(name)
	for item := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		key, value, found := strings.Cut(item, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || key == "" || err != nil || len(list) == maxPairs {
			e.Fail(name, fmt.Sprintf("has a part that isn't name=value with %%-escapes, or more than %d; want a=1,b=two%%20words", maxPairs))
			return list
		}
		list[key] = value
	}
	return list
}
