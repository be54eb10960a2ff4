// Package decisions tests what a waypoint decides about requests by what the control plane makes of a user's objects.
package decisions_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/table"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

var now = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// TestRequestsAreAnswered reads testdata/*.txt: settings and requests, one a line, each request with the answer below it.
//
//	resources http            what istiod-lite makes of istiod-lite/routes/testdata/http.in.yaml
//	service shop/web…:80      whom the requests are for
//	from cluster.local/ns/…   the client's identity; nothing for a client without one
//	token {"iss": …}          what the client's verified token claims; nothing for none
//	GET web/a | x-user: me    a request: method, host and path, headers
func TestRequestsAreAnswered(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s should read (go test -update writes it):\n%s", file, got)
			}
		})
	}
}

// scene is what requests meet.
type scene struct {
	table   *table.Table
	service string
	port    uint16
	peer    identity.Workload
	token   *claims.Claims
}

// play returns the text with the answers that there really are.
func play(t *testing.T, text string) string {
	t.Helper()
	var s scene
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		out.WriteString(line)
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#":
		case "resources":
			s.table = load(t, rest)
		case "service":
			name, port, _ := strings.Cut(rest, ":")
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			s.service, s.port = name, uint16(number)
		case "from":
			s.peer = identity.Workload{}
			if rest != "" {
				s.peer = must(identity.Parse("spiffe://" + rest))
			}
		case "token":
			s.token = nil
			if rest != "" {
				s.token = must(claims.Parse([]byte(rest)))
			}
		default:
			for _, answer := range s.ask(request(word, rest)) {
				out.WriteString("  " + answer + "\n")
			}
		}
	}
	return out.String()
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// load makes the table of a waypoint from a golden file of the control plane's.
func load(t *testing.T, name string) *table.Table {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../istiod-lite/routes/testdata", name+".out.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Resources map[string]json.RawMessage `json:"resources"`
	}
	if err := yaml.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	keys := jwt.NewKeys(&http.Client{}, slog.New(slog.DiscardHandler))
	t.Cleanup(keys.Close)
	b := table.NewBuilder("shop/waypoint", "istio-waypoint", keys)
	for name, text := range page.Resources {
		var r l7.Resource
		if err := protojson.Unmarshal(text, &r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = b.Set(name, &r, now) // what can't be obeyed shows in the answers
	}
	return b.Table()
}

func request(method, rest string) *exchange.Request {
	parts := strings.Split(rest, " | ")
	host, path, _ := strings.Cut(parts[0], "/")
	req := &exchange.Request{Version: exchange.HTTP11, Method: method, Scheme: "http", Authority: host, Path: "/" + path}
	for _, header := range parts[1:] {
		name, value, _ := strings.Cut(header, ": ")
		req.Fields = append(req.Fields, exchange.Field{Name: name, Value: value})
	}
	return req
}

// ask goes the way of a request through a waypoint.
func (s *scene) ask(req *exchange.Request) []string {
	path, err := target.Normalize(req.Path)
	if err != nil {
		return []string{"400 " + err.Error()}
	}
	req.Path = path
	rules := s.table.Lookup(s.service, s.port, s.peer.Namespace())
	r := new(jwt.Checker).Check(rules.Issuers, req, now, func() {})
	if r.Refusal != nil {
		return []string{fmt.Sprint(r.Refusal.Status, " ", r.Refusal.Reason)}
	}
	token := r.Token
	if token == nil {
		token = s.token
	}
	connection := authz.NewConnection(s.peer, netip.MustParseAddr("10.0.0.7"), netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), s.port), "")
	v := authz.Evaluate(rules.Policies, authz.Facts{Connection: connection, Remote: netip.MustParseAddr("1.2.3.9"), Request: req, Token: token})
	if !v.Allowed {
		return []string{"403 " + v.Reason}
	}
	return append(verdict(v), follow(rules.Routes, req, s.port)...)
}

func verdict(v authz.Verdict) (lines []string) {
	if v.Policy != "" {
		lines = append(lines, "allowed by "+v.Policy)
	}
	for _, name := range v.DryRun {
		lines = append(lines, "dry run of "+name+" matches")
	}
	for _, name := range v.Audited {
		lines = append(lines, "audited by "+name)
	}
	return lines
}

// follow goes by the routes.
func follow(routes *route.Routes, req *exchange.Request, port uint16) []string {
	if routes == nil {
		return []string{"to the service itself"}
	}
	if routes.Protocol == l7.Route_TCP || routes.Protocol == l7.Route_TLS {
		return []string{"a connection by " + routes.Connection("").Route}
	}
	h, ok := routes.Match(req, port)
	if !ok {
		return []string{"404"}
	}
	by := strings.TrimSpace("by " + h.Route + " " + h.Name)
	if res := h.Answer(req); res != nil {
		return []string{by, head(fmt.Sprint(res.Status), res.Fields)}
	}
	if h.Invalid != "" {
		return []string{by, "500 " + h.Invalid}
	}
	h.Forward(req)
	lines := append([]string{by}, mirrored(h.Mirrors)...)
	b := h.Backend(0)
	switch {
	case b == nil:
		return append(lines, "500 no backend")
	case b.Invalid != "":
		return append(lines, "500 "+b.Invalid)
	}
	h.ForwardTo(b, req)
	res := &exchange.Response{Status: 200}
	h.Answered(b, res)
	lines = append(append(lines, mirrored(b.Mirrors)...), fmt.Sprintf("to %s:%d", b.Service, b.Port), head(req.Method+" "+req.Authority+req.Path, req.Fields))
	if len(res.Fields) > 0 {
		lines = append(lines, head("200", res.Fields))
	}
	if h.RequestTimeout+h.TryTimeout > 0 {
		lines = append(lines, fmt.Sprintf("within %v, each try %v", h.RequestTimeout, h.TryTimeout))
	}
	if h.Retry != nil {
		lines = append(lines, fmt.Sprintf("tried again %d times, after %v, for %v", h.Retry.Attempts, h.Retry.Backoff, h.Retry.Statuses))
	}
	return lines
}

func mirrored(mirrors []route.Mirror) (lines []string) {
	for _, m := range mirrors {
		lines = append(lines, fmt.Sprintf("mirrored to %s:%d", m.Service, m.Port))
	}
	return lines
}

func head(first string, fields []exchange.Field) string {
	for _, f := range fields {
		first += " | " + f.Name + ": " + f.Value
	}
	return first
}
