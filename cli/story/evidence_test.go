package story

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/cli/demo"
)

func TestFieldsOfALogLine(t *testing.T) {
	const line = "2026-01-02T03:04:05.000000Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:5 src.workload=\"visitor\" " +
		"src.identity=\"spiffe://x/ns/a/sa/b\" dst.addr=10.0.0.2:15008 direction=\"inbound\" error=\"refused by policy: no = sign\""
	cases := []struct {
		keys []string
		want string
	}{
		{[]string{"src.addr"}, "src.addr=10.0.0.1:5"},
		{[]string{"error", "src.workload"}, `error="refused by policy: no = sign" src.workload="visitor"`},
		{[]string{"dst.addr", "absent", "direction"}, `dst.addr=10.0.0.2:15008 direction="inbound"`},
		{[]string{"addr"}, ""},
		{nil, ""},
	}
	for _, tc := range cases {
		if got := fields(line, tc.keys...); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.keys, got, tc.want)
		}
	}
}

func TestShortenedMetric(t *testing.T) {
	const line = `istio_tcp_connections_failed_total{reporter="destination",source_workload="visitor",source_app="x",response_flags="DENY"} 3`
	const want = `istio_tcp_connections_failed_total{reporter="destination",source_workload="visitor",response_flags="DENY"} 3`
	if got := shorten(line); got != want {
		t.Errorf("got %s", got)
	}
}

// What a capture shows decides; each way in which it could be wrong is noticed.
func TestEncryptionIsJudgedByTheCapture(t *testing.T) {
	good := func() demo.Report {
		return demo.Report{Packets: 10, Records: 5, Handshakes: map[string]uint64{"TLS 1.3": 2}}
	}
	cases := []struct {
		name   string
		change func(*demo.Report)
		want   string
	}{
		{"good", func(*demo.Report) {}, ""},
		{"the marker is seen", func(r *demo.Report) { r.Sightings = []demo.Sighting{{Marker: "M", Text: "GET /M"}} }, "still readable"},
		{"no tunnel at all", func(r *demo.Report) { r.Records, r.Handshakes = 0, nil }, "0 packets with TLS records"},
		{"clear text in the tunnel", func(r *demo.Report) { r.Plain = 1 }, "1 in the clear"},
		{"older TLS too", func(r *demo.Report) { r.Handshakes["TLS 1.2"] = 1 }, "TLS 1.3 alone"},
		{"no handshake seen", func(r *demo.Report) { r.Handshakes = nil }, "TLS 1.3 alone"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			report := good()
			tc.change(&report)
			var told bytes.Buffer
			err := (&Story{say: &teller{&told}}).encrypted(report, "M")
			if tc.want == "" && (err != nil || !strings.Contains(told.String(), "✓ M is in none of 10 packets")) {
				t.Errorf("%v\n%s", err, &told)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(told.String(), "✓")) {
				t.Errorf("got %v, want %q\n%s", err, tc.want, &told)
			}
		})
	}
}

func TestDemosInOtherFoldersHaveOtherNames(t *testing.T) {
	names := map[string]bool{}
	for _, dir := range []string{DefaultDir, DefaultDir + "/", "/tmp/a", "/tmp/b"} {
		names[Cluster(dir, demo.Programs{}).Name] = true
	}
	if len(names) != 3 || !names["demo"] {
		t.Errorf("got %v", names)
	}
}

// What is printed to be typed works as it stands.
func TestLinesToType(t *testing.T) {
	for _, tc := range []struct {
		this Invocation
		verb string
		rest []string
		want string
	}{
		{Invocation{"tulle", DefaultDir}, "", nil, "tulle demo"},
		{Invocation{"bin/tulle", DefaultDir}, "down", nil, "bin/tulle demo down"},
		{Invocation{"bin/tulle", "/tmp/x"}, "", nil, "bin/tulle demo --dir /tmp/x"},
		{Invocation{"bin/tulle", "/tmp/x"}, "exec", []string{"web", "--", "id"}, "bin/tulle demo exec --dir /tmp/x web -- id"},
	} {
		if got := tc.this.Line(tc.verb, tc.rest...); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}

func TestTellSaysWhatIsMissing(t *testing.T) {
	var out bytes.Buffer
	err := Tell(t.Context(), Config{Out: &out, Invocation: Invocation{"tulle", t.TempDir() + "/run"}, Programs: demo.Beside("/no/such/folder/tulle")})
	if err == nil || !strings.Contains(err.Error(), "make build") && !strings.Contains(err.Error(), "sudo tulle demo") || errors.Is(err, demo.ErrUp) {
		t.Errorf("got %v", err)
	}
}
