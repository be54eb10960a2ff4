package route

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// A request is compared with as many matches when a port has 5,000 routes as when it has one.
func TestARequestIsComparedWithFewMatches(t *testing.T) {
	req := &exchange.Request{Method: "GET", Path: "/items-0/17?user=0", Fields: []exchange.Field{{Name: "x-user", Value: "0"}}}
	for _, match := range []string{
		`path{exact:"/items-%d/17"}`, `path{prefix:"/items-%d"}`, `path{regex:"/items-%d/[0-9]+"}`, `path{prefix:"/"} headers{name:"x-user" exact:"%d"}`,
		`path{prefix:"/items-0"} query_params{name:"user" exact:"%d"}`, `method:"GET" headers{name:"x-user" exact:"%d"}`,
	} {
		var list []*Route
		for i := range 5000 {
			var message l7.Route
			if err := prototext.Unmarshal(fmt.Appendf(nil, `protocol:HTTP precedence:"%06d" rules{matches{`+match+`}}`, i, i), &message); err != nil {
				t.Fatal(err)
			}
			r, err := Compile(nil, &message)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
		routes, compared := Assemble(list), 0
		v := newView(req)
		first, ok := v.first(routes.index, func(i int32) bool {
			compared++
			return routes.matches[i].fits(&v)
		})
		if first != 0 || !ok || compared != 1 {
			t.Errorf("%s: goes by %d, %v, after being compared with %d", match, first, ok, compared)
		}
	}
}
