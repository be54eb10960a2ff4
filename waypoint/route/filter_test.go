package route_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/route"
)

// describe is a request's head on one line.
func describe(req *exchange.Request) string {
	parts := []string{req.Method + " " + req.Authority + req.Path}
	for _, f := range req.Fields {
		parts = append(parts, f.Name+": "+f.Value)
	}
	return strings.Join(parts, " | ")
}

func answer(res *exchange.Response) string {
	if res == nil {
		return ""
	}
	parts := []string{fmt.Sprint(res.Status)}
	for _, f := range res.Fields {
		parts = append(parts, f.Name+": "+f.Value)
	}
	return strings.Join(parts, " | ")
}

func hit(t testing.TB, rule, request string) (route.Hit, *exchange.Request) {
	t.Helper()
	req := get(request)
	h, ok := routes(t, `protocol:HTTP rules{`+rule+`}`).Match(req, 80)
	if !ok {
		t.Fatalf("%s doesn't match %s", request, rule)
	}
	return h, req
}

func TestHeadersAreSetThenAddedThenRemoved(t *testing.T) {
	const rule = `matches{} filters{request_headers{set{name:"X-Set" value:"s"} set{name:"host" value:"inner"} add{name:"x-add" value:"2"} add{name:"x-set" value:"t"} remove:"X-Gone"}}
		backends{weight:1 ref{service:"a/b" port:80} filters{request_headers{add{name:"x-backend" value:"b"} remove:"x-add"} response_headers{set{name:"x-r" value:"backend"}}}}`
	h, req := hit(t, rule, "GET /a | x-set: old | x-gone: 1 | x-add: 1 | x-set: older | x-gone: 2")
	h.Forward(req)
	if got, want := describe(req), "GET inner/a | x-add: 1 | x-set: s | x-add: 2 | x-set: t"; got != want {
		t.Errorf("by the rule:\n%s, want\n%s", got, want)
	}
	b := h.Backend(0)
	h.ForwardTo(b, req)
	if got, want := describe(req), "GET inner/a | x-set: s | x-set: t | x-backend: b"; got != want {
		t.Errorf("by the backend:\n%s, want\n%s", got, want)
	}
	res := &exchange.Response{Status: 200, Fields: []exchange.Field{{Name: "x-r", Value: "server"}}}
	h.Answered(b, res)
	if got := answer(res); got != "200 | x-r: backend" {
		t.Error(got)
	}
}

// The table is that of the Gateway API's HTTPPathModifier.
func TestPathsAreRewritten(t *testing.T) {
	for _, c := range []struct{ match, change, path, want string }{
		{"/foo", `prefix:"/xyz"`, "/foo/bar", "/xyz/bar"},
		{"/foo", `prefix:"/xyz/"`, "/foo/bar", "/xyz/bar"},
		{"/foo/", `prefix:"/xyz"`, "/foo/bar", "/xyz/bar"},
		{"/foo/", `prefix:"/xyz/"`, "/foo/bar", "/xyz/bar"},
		{"/foo", `prefix:"/xyz"`, "/foo", "/xyz"},
		{"/foo/", `prefix:"/xyz"`, "/foo", "/xyz"},
		{"/foo", `prefix:"/xyz"`, "/foo/", "/xyz/"},
		{"/foo", `prefix:""`, "/foo/bar", "/bar"},
		{"/foo", `prefix:""`, "/foo/", "/"},
		{"/foo", `prefix:""`, "/foo", "/"},
		{"/foo", `prefix:"/"`, "/foo/", "/"},
		{"/foo", `prefix:"/"`, "/foo", "/"},
		{"/", `prefix:"/xyz"`, "/bar?q=/foo", "/xyz/bar?q=/foo"},
		{"/", `prefix:"/xyz"`, "/", "/xyz/"},
		{"/foo", `prefix:"/xyz"`, "/foo?q", "/xyz?q"},
		{"/foo", `full:"/all"`, "/foo/bar?q=1", "/all?q=1"},
		{"/foo", `full:"all"`, "/foo", "/all"},
		{"/foo", `full:""`, "/foo/bar", "/"},
	} {
		h, req := hit(t, fmt.Sprintf(`matches{path{prefix:%q}} filters{rewrite{hostname:"inner" path{%s}}}`, c.match, c.change), "GET "+c.path)
		if h.Forward(req); req.Path != c.want || req.Authority != "inner" {
			t.Errorf("%s to %s: %s becomes %s %s, want %s", c.match, c.change, c.path, req.Authority, req.Path, c.want)
		}
	}
}

func TestRedirectsKeepWhatTheyDoNotSay(t *testing.T) {
	for _, c := range []struct {
		redirect, request string
		port              uint16
		want              string
	}{
		{``, "GET /a?b=c", 80, "302 | location: http://web.example/a?b=c"},
		{``, "GET /a", 8080, "302 | location: http://web.example:8080/a"},
		{``, "GET /a | host: web.example:8080", 80, "302 | location: http://web.example/a"},
		{`hostname:"other.example"`, "GET /a", 80, "302 | location: http://other.example/a"},
		{`scheme:"https"`, "GET /a", 8080, "302 | location: https://web.example/a"},
		{`scheme:"http"`, "GET /a", 8080, "302 | location: http://web.example/a"},
		{`scheme:"https" port:443`, "GET /a", 80, "302 | location: https://web.example/a"},
		{`scheme:"https" port:80`, "GET /a", 80, "302 | location: https://web.example:80/a"},
		{`scheme:"http" port:443`, "GET /a", 80, "302 | location: http://web.example:443/a"},
		{`port:8443`, "GET /a", 80, "302 | location: http://web.example:8443/a"},
		{`port:80`, "GET /a", 8080, "302 | location: http://web.example/a"},
		{`scheme:"ftp"`, "GET /a", 8080, "302 | location: ftp://web.example:8080/a"},
		{`status:308 path{prefix:"/to"}`, "GET /from/x?q", 80, "308 | location: http://web.example/to/x?q"},
		{`status:301 path{full:"/to"}`, "GET /from/x?q", 80, "301 | location: http://web.example/to?q"},
		{``, "GET /a | host: [::1]:80", 81, "302 | location: http://[::1]:81/a"},
		{``, "GET /a | host: ", 80, "302 | location: /a"},
	} {
		prefix := "/"
		if strings.Contains(c.request, "/from") {
			prefix = "/from"
		}
		req := get(c.request)
		h, _ := routes(t, fmt.Sprintf(`protocol:HTTP rules{matches{path{prefix:%q}} filters{redirect{%s}}}`, prefix, c.redirect)).Match(req, c.port)
		if got := answer(h.Answer(req)); got != c.want {
			t.Errorf("redirect{%s} of %s at port %d: %s, want %s", c.redirect, c.request, c.port, got, c.want)
		}
	}
}

func TestBrowsersAreToldWhatPagesMayDo(t *testing.T) {
	const preflight = " | access-control-request-method: PUT | access-control-request-headers: x-b"
	const listed = `allow_origins:"https://a.example" allow_origins:"https://*.b.example" allow_origins:"http://c.example:8080"
		allow_methods:"GET" allow_methods:"PUT" allow_headers:"x-a" allow_headers:"x-b" expose_headers:"x-e" max_age_seconds:60`
	const all = `allow_origins:"*" allow_methods:"*" allow_headers:"*" expose_headers:"*"`
	for _, c := range []struct{ cors, request, preflight, shared string }{
		{listed, "OPTIONS / | origin: https://a.example" + preflight,
			"204 | vary: Origin | access-control-allow-origin: https://a.example | access-control-allow-methods: GET,PUT | access-control-allow-headers: x-a,x-b | access-control-max-age: 60", ""},
		{listed, "OPTIONS / | origin: https://evil.example" + preflight, "204 | vary: Origin", ""},
		{listed + ` allow_credentials:true`, "GET / | origin: https://x.y.b.example", "",
			"200 | vary: Origin | access-control-allow-origin: https://x.y.b.example | access-control-allow-credentials: true | access-control-expose-headers: x-e"},
		{listed, "GET / | origin: HTTPS://A.example:443", "", "200 | vary: Origin | access-control-allow-origin: HTTPS://A.example:443 | access-control-expose-headers: x-e"},
		{listed, "GET / | origin: https://b.example", "", "200 | vary: Origin"},
		{listed, "GET / | origin: https://evilb.example", "", "200 | vary: Origin"},
		{listed, "GET / | origin: https://.b.example", "", "200 | vary: Origin"},
		{listed, "GET / | origin: http://a.example", "", "200 | vary: Origin"},
		{listed, "GET / | origin: http://c.example", "", "200 | vary: Origin"},
		{listed, "GET / | origin: null", "", "200 | vary: Origin"},
		{listed, "GET /", "", "200 | vary: Origin"},
		{listed, "OPTIONS / | origin: https://a.example", "", "200 | vary: Origin | access-control-allow-origin: https://a.example | access-control-expose-headers: x-e"},
		{all, "OPTIONS / | origin: https://a.example" + preflight,
			"204 | access-control-allow-origin: * | access-control-allow-methods: * | access-control-allow-headers: * | access-control-max-age: 5", ""},
		{all + ` allow_credentials:true`, "OPTIONS / | origin: null" + preflight,
			"204 | vary: Origin | access-control-allow-origin: null | access-control-allow-credentials: true | access-control-allow-methods: PUT | access-control-allow-headers: x-b | access-control-max-age: 5", ""},
		{all + ` allow_credentials:true`, "OPTIONS / | origin: https://a | access-control-request-method: PUT",
			"204 | vary: Origin | access-control-allow-origin: https://a | access-control-allow-credentials: true | access-control-allow-methods: PUT | access-control-max-age: 5", ""},
		{all, "GET / | origin: https://a.example", "", "200 | access-control-allow-origin: * | access-control-expose-headers: *"},
		{all + ` allow_credentials:true`, "GET / | origin: https://a", "", "200 | vary: Origin | access-control-allow-origin: https://a | access-control-allow-credentials: true"},
		{`allow_origins:"https://*"`, "GET / | origin: https://any:443", "", "200 | vary: Origin | access-control-allow-origin: https://any:443"},
	} {
		h, req := hit(t, `matches{} filters{cors{`+c.cors+`}}`, c.request)
		got := h.Answer(req)
		if answer(got) != c.preflight {
			t.Errorf("%s\nanswers %s, want\n        %s", c.request, answer(got), c.preflight)
		}
		if got != nil {
			continue
		}
		res := &exchange.Response{Status: 200, Fields: []exchange.Field{{Name: "access-control-allow-origin", Value: "the server's"}}}
		if h.Answered(nil, res); answer(res) != c.shared {
			t.Errorf("%s\nshares %s, want\n       %s", c.request, answer(res), c.shared)
		}
	}
}

func TestARedirectIsReadableByPagesToo(t *testing.T) {
	h, req := hit(t, `matches{} filters{redirect{status:301} response_headers{set{name:"x" value:"1"}} cors{allow_origins:"https://a"}}`, "GET /b | origin: https://a")
	if got, want := answer(h.Answer(req)), "301 | location: http://web.example/b | x: 1 | vary: Origin | access-control-allow-origin: https://a"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzOrigin: no other origin is allowed than those under the suffix, and the answer names it as it was asked.
func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{"https://a.b.example", "https://b.example.evil", "https://x@a.b.example", "null", "https://a.b.example:443", "https://[::1]:443", "https://a.b.example/"} {
		f.Add(seed)
	}
	r := routes(f, `protocol:HTTP rules{matches{} filters{cors{allow_origins:"https://*.b.example"}}}`)
	f.Fuzz(func(t *testing.T, origin string) {
		req := get("GET /")
		req.Fields = []exchange.Field{{Name: "origin", Value: origin}}
		h, _ := r.Match(req, 80)
		res := &exchange.Response{Status: 200}
		h.Answered(nil, res)
		i := slices.IndexFunc(res.Fields, func(f exchange.Field) bool { return f.Name == "access-control-allow-origin" })
		if i < 0 {
			return
		}
		host := strings.TrimSuffix(strings.ToLower(origin), ":443")
		if res.Fields[i].Value != origin || !strings.HasPrefix(host, "https://") || !strings.HasSuffix(host, ".b.example") || strings.ContainsAny(host[len("https://"):], "/?#@") {
			t.Errorf("%q is allowed: %s", origin, answer(res))
		}
	})
}

// A backend's new prefix is for paths that still begin with what the match named, by whole elements.
func TestABackendsPrefixIsForWhatTheRuleHasLeft(t *testing.T) {
	for rule, want := range map[string]string{``: "/z/x", `filters{rewrite{path{full:"/abc"}}}`: "/abc", `filters{rewrite{path{full:"/a"}}}`: "/z", `filters{rewrite{path{full:"/b"}}}`: "/b"} {
		h, req := hit(t, `matches{path{prefix:"/a"}} `+rule+` backends{ref{service:"a/b" port:1} weight:1 filters{rewrite{path{prefix:"/z"}}}}`, "GET /a/x")
		h.Forward(req)
		if h.ForwardTo(h.Backend(0), req); req.Path != want {
			t.Errorf("rule %s: %s, want %s", rule, req.Path, want)
		}
	}
}
