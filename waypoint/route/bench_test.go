package route_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/route"
)

// kinds are ways in which many routes differ, and a request that goes by number 0.
var kinds = []struct{ name, match, request string }{
	{"exact", `path{exact:"/api/v1/items-%d"}`, "GET /api/v1/items-0"},
	{"prefix", `path{prefix:"/api/v1/items-%d"}`, "GET /api/v1/items-0/17/price?currency=eur"},
	{"header", `path{prefix:"/"} headers{name:"x-user" exact:"user-%d"}`, "GET /api/v1/items | x-user: user-0"},
	{"param", `path{prefix:"/"} query_params{name:"user" exact:"user-%d"}`, "GET /api/v1/items?user=user-0"},
	{"regex", `path{regex:"/api/items-%d/[0-9]+"}`, "GET /api/items-0/17"},
	{"method", `path{exact:"/api/v1/%d"} method:"GET"`, "GET /api/v1/0"},
	{"none", `path{exact:"/api/v1/items-%d"}`, "GET /api/v1/other"},
}

func many(t testing.TB, n int, match string) *route.Routes {
	var list []*route.Route
	for i := range n {
		list = append(list, compile(t, fmt.Sprintf(`protocol:HTTP precedence:"%06d" rules{matches{rank:7 `+match+`}}`, i, i)))
	}
	return route.Assemble(list)
}

// BenchmarkMatch tells what a request costs by the number of routes of its port.
func BenchmarkMatch(b *testing.B) {
	for _, kind := range kinds {
		for _, n := range []int{1, 100, 1000, 5000} {
			r := many(b, n, kind.match)
			req := get(kind.request)
			for _, name := range []string{"accept", "user-agent", "x-request-id", "traceparent"} {
				req.Fields = append(req.Fields, exchange.Field{Name: name, Value: "some value of " + name})
			}
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := r.Match(req, 80); ok != (kind.name != "none") {
						b.Fatal("another answer")
					}
				}
			})
		}
	}
}

// BenchmarkAssemble tells what one change costs among all routes of a port.
func BenchmarkAssemble(b *testing.B) {
	for _, n := range []int{1, 1000, 5000} {
		var list []*route.Route
		for i := range n {
			list = append(list, compile(b, fmt.Sprintf(`protocol:HTTP precedence:"%06d" rules{matches{rank:7 path{regex:"/items-%d/[0-9]+"}}}`, i, i)))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				route.Assemble(list)
			}
		})
	}
}
