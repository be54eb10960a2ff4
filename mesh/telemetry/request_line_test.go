package telemetry_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

func TestARequestIsALineOfTheAccessLog(t *testing.T) {
	levels, err := telemetry.ParseLevels("info")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	line := &telemetry.RequestLine{
		Kind: &telemetry.RequestKind{
			Source: telemetry.Peer{Workload: "client", Namespace: "app"}, Destination: telemetry.Peer{Workload: "web", Namespace: "shop"}, Service: "web.shop", Code: 403, Flags: telemetry.FlagNone,
		},
		Start: start, Took: 12 * time.Millisecond, Received: 5, Sent: 19, Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:8080"),
		Method: "GET", Path: "/a\"\n?b", Authority: "web", Route: "HTTPRoute/shop/web", Policy: "shop/readers", Details: "no ALLOW policy matches", Tries: 2,
		Fields: func(name string) string { return map[string]string{"user-agent": "curl"}[name] },
	}
	var plain, structured bytes.Buffer
	telemetry.NewAccessLog(&plain, "plain", levels).Request(line)
	telemetry.NewAccessLog(&structured, "json", levels).Request(line)

	want := `2026-11-29T10:00:00.012000Z	info	access	request complete	method="GET" path="/a\"\n?b" authority="web" protocol="http" response_code=403 response_flags="-" ` +
		`response_code_details="no ALLOW policy matches" bytes_received=5 bytes_sent=19 duration="12ms" tries=2 route_name="HTTPRoute/shop/web" policy="shop/readers" ` +
		`downstream_remote_address=10.0.0.1:1 upstream_host=10.0.0.2:8080 upstream_cluster="web.shop" src.workload="client" src.namespace="app" ` +
		`dst.workload="web" dst.namespace="shop" user_agent="curl"` + "\n"
	if plain.String() != want {
		t.Errorf("line\n%swant\n%s", plain.String(), want)
	}
	var fields map[string]any
	if err := json.Unmarshal(structured.Bytes(), &fields); err != nil || strings.Count(structured.String(), "\n") != 1 {
		t.Fatalf("%v in %s", err, structured.String())
	}
	for key, want := range map[string]any{"path": "/a\"\n?b", "response_code": 403.0, "policy": "shop/readers", "upstream_host": "10.0.0.2:8080", "message": "request complete", "scope": "access"} {
		if fields[key] != want {
			t.Errorf("%s is %v, want %v", key, fields[key], want)
		}
	}
	off, err := telemetry.ParseLevels("access=off")
	if err != nil {
		t.Fatal(err)
	}
	plain.Reset()
	if telemetry.NewAccessLog(&plain, "plain", off).Request(line); plain.Len() > 0 {
		t.Errorf("a line though the log is off: %s", plain.String())
	}
}
