package authz_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/authz"
)

// kinds are ways in which many rules differ. None of them but the last of the ALLOW policy is about the request.
var kinds = []struct{ name, rule string }{
	{"principals", `from{principals{any{exact:"cluster.local/ns/other/sa/client-%d"}}}`},
	{"namespaces", `from{namespaces{any{exact:"team-%d"}}} to{methods{any{exact:"GET"}}}`},
	{"paths", `to{paths{any{prefix:"/items-%d/"}}}`},
	{"templates", `to{paths{any{template:"/items-%d/{*}/{**}"}}}`},
	{"headers", `when{attribute:REQUEST_HEADER header:"x-user" values{any{exact:"user-%d"}}}`},
	{"claims", `when{attribute:REQUEST_CLAIM claim:"group" values{any{exact:"group-%d"}}}`},
	{"addresses", `from{ip_blocks{any:"192.168.%d.0/24"}}`},
	{"suffixes", `from{principals{any{suffix:"/sa/client-%d"}}}`},
}

// BenchmarkEvaluate tells what a request costs by the number of rules of its service.
func BenchmarkEvaluate(b *testing.B) {
	facts := asked(b, client, "GET web.example/api/v1/items?x=y | accept: */* | user-agent: curl | x-user: me | traceparent: 00-1-2-01", `{"iss":"i","sub":"s","group":"mine"}`)
	for _, kind := range kinds {
		for _, n := range []int{1, 100, 1000, 5000} {
			text := `action:DENY `
			for i := range n {
				if kind.name == "addresses" {
					i %= 256
				}
				text += fmt.Sprintf(`rules{`+kind.rule+`}`, i)
			}
			sets := []*authz.Set{set(b, text, `action:ALLOW rules{from{namespaces{any{exact:"team"}}}}`)}
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !authz.Evaluate(sets, facts).Allowed {
						b.Fatal("refused")
					}
				}
			})
		}
	}
}
