package route_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/route"
)

// compile reads a route, as text of the protocol's.
func compile(t testing.TB, text string) *route.Route {
	t.Helper()
	r, err := tryCompile(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryCompile(t testing.TB, text string) (*route.Route, error) {
	t.Helper()
	var message l7.Route
	if err := prototext.Unmarshal([]byte(text), &message); err != nil {
		t.Fatal(err)
	}
	return route.Compile(&l7.Origin{Kind: "HTTPRoute", Namespace: "shop", Name: "web"}, &message)
}

func routes(t testing.TB, texts ...string) *route.Routes {
	t.Helper()
	var list []*route.Route
	for _, text := range texts {
		list = append(list, compile(t, text))
	}
	return route.Assemble(list)
}

// get makes a request of "METHOD target [name: value]...".
func get(text string) *exchange.Request {
	parts := strings.Split(text, " | ")
	method, target, _ := strings.Cut(parts[0], " ")
	req := &exchange.Request{Version: exchange.HTTP11, Method: method, Scheme: "http", Authority: "web.example", Path: target}
	for _, header := range parts[1:] {
		name, value, _ := strings.Cut(header, ": ")
		if name == "host" {
			req.Authority = value
			continue
		}
		req.Fields = append(req.Fields, exchange.Field{Name: name, Value: value})
	}
	return req
}

func TestMatchesFitByAllThatTheyHave(t *testing.T) {
	for _, c := range []struct{ match, yes, no string }{
		{``, "GET / ; POST /x?y ; OPTIONS *", ""},
		{`path{exact:"/a"}`, "GET /a ; GET /a?b=/c", "GET /a/ ; GET /A ; GET /ab ; GET /"},
		{`path{prefix:"/a"}`, "GET /a ; GET /a/ ; GET /a/b/c ; GET /a?x ; GET /a//b", "GET /ab ; GET / ; GET /b/a ; GET /A"},
		{`path{prefix:"/a/"}`, "GET /a ; GET /a/b", "GET /ab"},
		{`path{prefix:"/"}`, "GET / ; GET /x/y", "OPTIONS *"},
		{`path{prefix:"/%61%2fb"}`, "GET /a%2Fb/c", "GET /a/b"},
		{`path{regex:"/re/[0-9]+"}`, "GET /re/12 ; GET /re/1?x=y", "GET /re/ ; GET /re/12/x ; GET /x/re/12 ; GET /re/1x"},
		{`path{regex:"/a|/b"}`, "GET /a ; GET /b", "GET /ab ; GET /a/b"},
		{`path{regex:"/(?i)caf."}`, "GET /CAFE", "GET /caf"},
		{`method:"POST"`, "POST /x", "GET /x ; post /x"},
		{`headers{name:"x-a" exact:"1"}`, "GET / | x-a: 1 ; GET / | x-b: 2 | x-a: 1", "GET / ; GET / | x-a: 2 ; GET / | x-a: 1 | x-a: 2 ; GET / | x-a: "},
		{`path{prefix:"/a"} headers{name:"x-a" exact:"b"} query_params{name:"q" exact:"c"}`, "GET /a?q=c | x-a: b", "GET /a?q=c | x-a: B ; GET /a?q=C | x-a: b"},
		{`headers{name:"X-A" exact:"1,2"}`, "GET / | x-a: 1 | x-a: 2 ; GET / | x-a: 1,2", "GET / | x-a: 2 | x-a: 1"},
		{`headers{name:"x-a" regex:"b+"}`, "GET / | x-a: bb", "GET / | x-a: abb ; GET / | x-a: "},
		{`headers{name:"x-a" exact:"1"} headers{name:"x-b" exact:"2"}`, "GET / | x-b: 2 | x-a: 1", "GET / | x-a: 1 ; GET / | x-b: 2"},
		{`query_params{name:"q" exact:"1"}`, "GET /?q=1 ; GET /?z=&q=1 ; GET /?q=1&q=2 ; GET /?%71=%31", "GET / ; GET /?q=2&q=1 ; GET /?Q=1 ; GET /q=1"},
		{`query_params{name:"q" exact:"a b"}`, "GET /?q=a+b ; GET /?q=a%20b", "GET /?q=a%2520b"},
		{`query_params{name:"q" regex:"[0-9]*"}`, "GET /?q=12 ; GET /?q", "GET /?q=1a ; GET /"},
		{`path{prefix:"/a"} method:"GET" headers{name:"x-a" exact:"1"} query_params{name:"q" exact:"1"}`, "GET /a/b?q=1 | x-a: 1", "GET /a/b?q=1 ; PUT /a?q=1 | x-a: 1 ; GET /b?q=1 | x-a: 1 ; GET /a | x-a: 1"},
	} {
		r := routes(t, `protocol:HTTP rules{matches{`+c.match+`}}`)
		for want, requests := range map[bool]string{true: c.yes, false: c.no} {
			for request := range strings.SplitSeq(requests, " ; ") {
				if _, got := r.Match(get(request), 80); got != want && request != "" {
					t.Errorf("match %s: %s fits: %v, want %v", c.match, request, got, want)
				}
			}
		}
	}
}

func TestTheHighestRankThenTheOldestRouteThenTheFirstRuleWins(t *testing.T) {
	r := routes(t,
		`protocol:HTTP precedence:"2 b" rules{name:"young" matches{rank:5 path{prefix:"/"}}} rules{name:"exact" matches{rank:9 path{exact:"/a/b"}}}`,
		`protocol:HTTP precedence:"1 a" rules{name:"old" matches{rank:5 path{prefix:"/"}}}
			rules{name:"never" matches{rank:5 path{prefix:"/"}}}
			rules{name:"longer" matches{rank:6 path{prefix:"/a"}} matches{rank:6 path{regex:"/z.*"}}}
			rules{name:"header" matches{rank:7 path{prefix:"/"} headers{name:"x" exact:"1"}}}
			rules{name:"method" matches{rank:8 path{prefix:"/"} method:"PUT"}}`)
	for request, want := range map[string]string{
		"GET /": "old", "GET /b": "old", "GET /a": "longer", "GET /zed": "longer", "GET /a/b": "exact", "GET /a/b/c": "longer", "GET /a | x: 1": "header",
		"PUT /a | x: 1": "method", "PUT /a/b | x: 1": "exact",
	} {
		if h, ok := r.Match(get(request), 80); !ok || h.Name != want {
			t.Errorf("%s goes by %v, want %s", request, h.Rule, want)
		}
	}
}

// Whatever rules there are, the index finds the one that looking at each of them in order does.
func TestIndexFindsWhatAScanDoes(t *testing.T) {
	paths := []string{"", `path{exact:"/a"}`, `path{exact:"/a/b"}`, `path{prefix:"/a"}`, `path{prefix:"/a/b"}`, `path{prefix:"/"}`, `path{regex:"/a/[bc]"}`, `path{regex:"/[ab]"}`}
	others := []string{"", `method:"PUT"`, `headers{name:"x" exact:"1"}`, `headers{name:"x" exact:"2"}`, `headers{name:"x" regex:"[12]"}`, `query_params{name:"q" exact:"1"}`, `headers{name:"y" exact:"1"} query_params{name:"q" exact:"2"}`}
	var texts []string
	for i, path := range paths {
		for j, other := range others {
			rank := (i*31 + j*17) % 23
			texts = append(texts, fmt.Sprintf(`protocol:HTTP precedence:"%03d" rules{name:"%d-%d" matches{rank:%d %s %s}}`, i*7+j, i, j, rank, path, other))
		}
	}
	for n := 1; n <= len(texts); n += 5 {
		var single []*route.Routes
		var list []*route.Route
		for _, text := range texts[:n] {
			list = append(list, compile(t, text))
			single = append(single, routes(t, text))
		}
		all := route.Assemble(list)
		for _, path := range []string{"/", "/a", "/a/b", "/a/c", "/a/b/c", "/b", "/a?q=1", "/a/b?q=2", "/z?q=3&q=1", "*"} {
			for _, rest := range []string{"", " | x: 1", " | x: 2", " | x: 1 | x: 2", " | y: 1", " | x: 1 | y: 1"} {
				for _, method := range []string{"GET ", "PUT "} {
					req := get(method + path + rest)
					want, best := "", -1
					for i, one := range single {
						if h, ok := one.Match(req, 80); ok {
							var a, b int
							fmt.Sscanf(h.Name, "%d-%d", &a, &b)
							if rank := (a*31 + b*17) % 23; rank > best {
								want, best = h.Name, rank
							}
						}
						_ = i
					}
					got := ""
					if h, ok := all.Match(req, 80); ok {
						got = h.Name
					}
					if got != want {
						t.Fatalf("%d rules: %s%s%s goes by %q, want %q", n, method, path, rest, got, want)
					}
				}
			}
		}
	}
}

func TestWhatCannotBeObeyedRefuses(t *testing.T) {
	for _, rule := range []string{
		`matches{path{prefix:"/"}} invalid:"not supported"`,
		`matches{path{regex:"("}}`,
		`matches{path{regex:"a)|(.*"}}`,
		`matches{headers{name:"x" regex:"("}}`,
		`matches{headers{name:"x"}}`,
		`matches{path{}}`,
		`matches{path{exact:"/%zz"}} matches{}`,
		`matches{} filters{request_headers{set{name:"transfer-encoding" value:"chunked"}}}`,
		`matches{} filters{response_headers{add{name:"content-length" value:"0"}}}`,
		`matches{} filters{request_headers{set{name:"x" value:"a\r\nb: c"}}}`,
		`matches{} filters{request_headers{remove:":path"}}`,
		`matches{} filters{request_headers{add{name:"host" value:"two"}}}`,
		`matches{} filters{request_headers{remove:"Host"}}`,
		`matches{} filters{request_headers{set{name:"host" value:"a/b"}}}`,
		`matches{} filters{rewrite{path{full:"/a?b"}}}`,
		`matches{} filters{rewrite{hostname:"a b"}}`,
		`matches{} filters{rewrite{path{}}}`,
		`matches{} filters{redirect{status:200}}`,
		`matches{} filters{redirect{port:65536}}`,
		`matches{} filters{cors{allow_origins:"https://a.*.example"}}`,
		`matches{} backends{weight:1 ref{service:"a/b" port:1} filters{redirect{}}}`,
	} {
		r, err := tryCompile(t, `protocol:HTTP rules{`+rule+`}`)
		if (err == nil) != strings.Contains(rule, "invalid:") {
			t.Errorf("%s: error %v", rule, err)
		}
		if h, ok := route.Assemble([]*route.Route{r}).Match(get("GET /x"), 80); !ok || h.Invalid == "" || h.Answer(get("GET /x")) != nil {
			t.Errorf("%s: %v, want it to be invalid", rule, h.Rule)
		}
	}
	for name, r := range map[string]*route.Routes{
		"unknown protocol": routes(t, `rules{matches{}}`),
		"newer protocol":   routes(t, `protocol:9 rules{matches{}}`),
		"two protocols":    routes(t, `protocol:HTTP rules{matches{}}`, `protocol:TCP rules{}`),
		"newer schema":     route.Refused("newer"),
	} {
		if h, ok := r.Match(get("GET /x"), 80); !ok || h.Invalid == "" {
			t.Errorf("%s: %v, want a refusal", name, h.Rule)
		}
		if rule := r.Connection("a.example"); rule == nil || rule.Invalid == "" {
			t.Errorf("%s: connection: %v, want a refusal", name, rule)
		}
	}
}

func TestBackendsShareByWeight(t *testing.T) {
	h, _ := routes(t, `protocol:HTTP rules{matches{} backends{weight:7 ref{service:"a/a" port:80}} backends{weight:0 ref{service:"a/zero" port:80}}
		backends{weight:2 invalid:"there is no Service"} backends{weight:1 ref{service:"a/b" port:81}}}`).Match(get("GET /"), 80)
	count := map[string]int{}
	for random := range uint64(1000) {
		b := h.Backend(random)
		count[fmt.Sprint(b.Destination, " ", b.Invalid)]++
	}
	if want := map[string]int{"{a/a 80} ": 700, "{ 0} there is no Service": 200, "{a/b 81} ": 100}; fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("shares %v, want %v", count, want)
	}
	for _, rule := range []string{`matches{}`, `matches{} backends{weight:0 ref{service:"a/a" port:80}}`} {
		if h, _ := routes(t, `protocol:HTTP rules{`+rule+`}`).Match(get("GET /"), 80); h.Backend(1) != nil {
			t.Errorf("%s: %v, want no backend", rule, h.Backend(1))
		}
	}
	if b := func() *route.Backend {
		r, err := tryCompile(t, `protocol:HTTP rules{matches{} backends{weight:1 ref{service:"a/a"}}}`)
		if err == nil {
			t.Error("a backend without a port: no error")
		}
		h, _ := route.Assemble([]*route.Route{r}).Match(get("GET /"), 80)
		return h.Backend(1)
	}(); b.Invalid == "" {
		t.Error("a backend without a port isn't invalid")
	}
}

func TestTimeoutsRetriesAndMirrorsAreValues(t *testing.T) {
	h, _ := routes(t, `protocol:HTTP rules{matches{} request_timeout_ms:10000 try_timeout_ms:1500 retry{attempts:3 statuses:502 backoff_ms:100}
		filters{mirrors{backend{service:"a/m" port:1}} mirrors{backend{service:"a/n" port:2} numerator:1 denominator:4}}}`).Match(get("GET /"), 80)
	if got := fmt.Sprint(h.RequestTimeout, h.TryTimeout, *h.Retry); got != "10s 1.5s {3 [502] 100ms}" {
		t.Error(got)
	}
	chosen := [2]int{}
	for random := range uint64(400) {
		for i := range h.Mirrors {
			if h.Mirrors[i].Chosen(random) {
				chosen[i]++
			}
		}
	}
	if chosen != [2]int{400, 100} {
		t.Errorf("mirrored %v of 400", chosen)
	}
}

func TestConnectionsGoByServerName(t *testing.T) {
	r := routes(t,
		`protocol:TLS precedence:"1" server_names:"a.example" server_names:"*.example" rules{name:"one"} rules{name:"ignored"}`,
		`protocol:TLS precedence:"2" server_names:"*.b.example" server_names:"a.example" rules{name:"two"}`)
	for name, want := range map[string]string{
		"a.example": "one", "A.Example": "one", "c.example": "one", "c.d.example": "one", "b.example": "one", "x.b.example": "two", "x.y.b.example": "two",
		"example": "", ".example": "", "": "", "a.other": "", strings.Repeat("a.", 200) + "example": "",
	} {
		got := ""
		if rule := r.Connection(name); rule != nil {
			got = rule.Name
		}
		if got != want {
			t.Errorf("%s goes by %q, want %q", name, got, want)
		}
	}
	any := routes(t, `protocol:TLS rules{name:"any"}`, `protocol:TLS precedence:"1" server_names:"a.example" rules{name:"a"}`)
	if got := any.Connection("").Name + any.Connection("b").Name + any.Connection("a.example").Name; got != "anyanya" {
		t.Error(got)
	}
	if rule := routes(t, `protocol:TCP`).Connection(""); rule == nil || rule.Invalid == "" {
		t.Errorf("a TCP route without rules: %v", rule)
	}
	some := routes(t, `protocol:TCP rules{backends{ref{service:"a/b" port:1} weight:1} backends{ref{service:"a/c" port:1} weight:0} backends{ref{service:"a/d" port:1} weight:1 invalid:"x"}}`).Connection("")
	for service, want := range map[string]bool{"a/b": true, "a/c": false, "a/d": false, "a/e": false} {
		if got := some.LeadsTo(route.Destination{Service: service, Port: 1}); got != want {
			t.Errorf("it leads to %s: %v, want %v", service, got, want)
		}
	}
	if rule := routes(t, `protocol:TCP precedence:"1" rules{name:"first"}`, `protocol:TCP rules{name:"older"}`).Connection(""); rule.Name != "older" {
		t.Errorf("TCP goes by %s", rule.Name)
	}
}

func TestMatchingCostsNoAllocation(t *testing.T) {
	var texts []string
	for i := range 100 {
		texts = append(texts, fmt.Sprintf(`protocol:HTTP precedence:"%03d" rules{
			matches{rank:3 path{prefix:"/api/v%d"} method:"GET" headers{name:"x-user" exact:"u%d"}} matches{rank:2 path{regex:"/re%d/[0-9]+"}} matches{rank:1 query_params{name:"q" exact:"%d"}}}`, i, i, i, i, i))
	}
	r := routes(t, texts...)
	for _, request := range []string{"GET /api/v7/items?x=1 | accept: */* | x-user: u7", "GET /re42/17", "GET /other?q=99", "GET /none"} {
		req := get(request)
		if allocs := testing.AllocsPerRun(100, func() { r.Match(req, 80) }); allocs > 0 {
			t.Errorf("%s: %v allocations", request, allocs)
		}
	}
}
