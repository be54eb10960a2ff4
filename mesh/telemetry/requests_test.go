package telemetry_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

func TestRequestsAreCountedByTheirKind(t *testing.T) {
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	kind := telemetry.RequestKind{
		Source: telemetry.Peer{Workload: "client", Namespace: "app"}, Destination: telemetry.Peer{Workload: "web", Namespace: "shop"},
		Service: "web.shop", ServiceName: "web", ServiceNamespace: "shop", MTLS: true, Code: 200, Flags: telemetry.FlagNone,
	}
	first := m.Requests(&kind)
	first.Ended(3*time.Millisecond, 0, 1500)
	first.Ended(70*time.Millisecond, 10, 20)
	first.Release()
	kind.Code, kind.Flags = 504, "UT"
	m.Requests(&kind).Ended(time.Hour, 0, 0)
	kind.GRPC, kind.GRPCStatus = true, "14"
	m.Requests(&kind).Ended(0, 0, 0)
	m.Requests(&kind).Messages(3, 5)

	var out bytes.Buffer
	if err := m.Expose(&out, false); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		`response_code="200",grpc_response_status="unknown",response_flags="-",connection_security_policy="mutual_tls"} 2`,
		`request_protocol="http",response_code="504",grpc_response_status="unknown",response_flags="UT"`,
		`request_protocol="grpc",response_code="504",grpc_response_status="14"`,
		`connection_security_policy="mutual_tls"} 3`,
		`connection_security_policy="mutual_tls"} 5`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, name := range []string{"istio_request_messages_total", "istio_response_messages_total"} {
		if n := strings.Count(text, name+"{"); n != 1 {
			t.Errorf("%d series of %s, want gRPC's alone", n, name)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(&out)
	if err != nil {
		t.Fatal(err)
	}
	h := families["istio_request_duration_milliseconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 2 || h.GetSampleSum() != 73 {
		t.Errorf("durations: %d, %v ms in all; want 2, 73", h.GetSampleCount(), h.GetSampleSum())
	}
	for _, b := range h.GetBucket() {
		want := uint64(0)
		switch {
		case b.GetUpperBound() >= 100:
			want = 2
		case b.GetUpperBound() >= 5:
			want = 1
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d durations of at most %v ms, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if sum := families["istio_response_bytes"].GetMetric()[0].GetHistogram().GetSampleSum(); sum != 1520 {
		t.Errorf("%v bytes of answers, want 1520", sum)
	}
}
