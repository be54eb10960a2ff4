package settings_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/mesh/settings"
)

func TestTracingHasTheVariablesOfOpenTelemetry(t *testing.T) {
	byHTTP := settings.Tracing{
		On: true, Endpoint: "http://localhost:4318/v1/traces", Headers: map[string]string{}, Timeout: 10 * time.Second,
		Resource: map[string]string{"service.name": "ztunnel"},
	}
	with := func(change func(*settings.Tracing)) settings.Tracing {
		c := byHTTP
		change(&c)
		return c
	}
	for name, test := range map[string]struct {
		vars []string
		want settings.Tracing
	}{
		"off by default":               {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_EXPORTER_OTLP_TIMEOUT=for another"}, settings.Tracing{}},
		"off when the SDK is disabled": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_SDK_DISABLED=true"}, settings.Tracing{}},
		"on, with nothing else":        {[]string{"OTEL_TRACES_EXPORTER=otlp"}, byHTTP},
		"a base for all signals": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=https://c:4318/base/"}, with(func(c *settings.Tracing) {
			c.Endpoint = "https://c:4318/base/v1/traces"
		})},
		"the address for traces is taken as it is": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:4318/x", "OTEL_EXPORTER_OTLP_ENDPOINT=http://d"}, with(func(c *settings.Tracing) {
			c.Endpoint = "http://c:4318/x"
		})},
		"gRPC": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, with(func(c *settings.Tracing) {
			c.GRPC, c.Endpoint = true, "http://localhost:4317"
		})},
		"gRPC without a scheme is secure": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_ENDPOINT=c:4317"}, with(func(c *settings.Tracing) {
			c.GRPC, c.Endpoint = true, "https://c:4317"
		})},
		"gRPC without a scheme, insecure": {[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_ENDPOINT=c:4317", "OTEL_EXPORTER_OTLP_INSECURE=true"}, with(func(c *settings.Tracing) {
			c.GRPC, c.Endpoint = true, "http://c:4317"
		})},
		"everything": {[]string{
			"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_HEADERS=all=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS= a=1 ,b=two%20words=,", "OTEL_EXPORTER_OTLP_TIMEOUT=1500",
			"OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_EXPORTER_OTLP_CERTIFICATE=/root.pem", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=/c.pem", "OTEL_EXPORTER_OTLP_CLIENT_KEY=/k.pem",
			"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.1", "OTEL_SERVICE_NAME=mesh", "OTEL_RESOURCE_ATTRIBUTES=service.name=x,k8s.node.name=n1",
		}, settings.Tracing{
			On: true, Endpoint: "http://localhost:4318/v1/traces", Headers: map[string]string{"a": "1", "b": "two words="}, Timeout: 1500 * time.Millisecond, Gzip: true,
			RootCA: "/root.pem", ClientCert: "/c.pem", ClientKey: "/k.pem", Sampler: "traceidratio", SamplerArgument: "0.1",
			Resource: map[string]string{"service.name": "mesh", "k8s.node.name": "n1"},
		}},
	} {
		e := settings.New(test.vars)
		got := settings.ReadTracing(e, "ztunnel")
		if err := e.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMistakesInTracingAreNamed(t *testing.T) {
	for _, wrong := range []string{
		"OTEL_TRACES_EXPORTER=zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "OTEL_EXPORTER_OTLP_ENDPOINT=c:4318", "OTEL_EXPORTER_OTLP_TIMEOUT=10s",
		"OTEL_EXPORTER_OTLP_COMPRESSION=zstd", "OTEL_EXPORTER_OTLP_HEADERS=a", "OTEL_RESOURCE_ATTRIBUTES=a=%zz",
	} {
		name, _, _ := strings.Cut(wrong, "=")
		e := settings.New([]string{"OTEL_TRACES_EXPORTER=otlp", wrong})
		settings.ReadTracing(e, "ztunnel")
		err := e.Err()
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names the variable", wrong, err)
		}
	}
}
