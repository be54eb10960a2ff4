package route_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// Headers that say what a connection is to become, or whom is asked, can be asked for like all others, though they are no fields.
func TestRulesMayAskForHeadersThatAreNoFields(t *testing.T) {
	r := routes(t, `protocol:HTTP rules{name:"upgrade" matches{rank:3 headers{name:"Upgrade" exact:"websocket"}}} rules{name:"host" matches{rank:2 headers{name:"Host" exact:"shop.example"}}}
		rules{name:"hosts" matches{rank:1 headers{name:"host" regex:".*[.]example"}}} rules{name:"else" matches{}}`)
	for _, test := range []struct {
		req  exchange.Request
		want string
	}{
		{exchange.Request{Upgrade: "websocket"}, "upgrade"},
		{exchange.Request{Upgrade: "spdy/3.1"}, "else"},
		{exchange.Request{Authority: "shop.example"}, "host"},
		{exchange.Request{Authority: "web.example"}, "hosts"},
		{exchange.Request{Authority: "web"}, "else"},
		{exchange.Request{}, "else"},
	} {
		test.req.Method, test.req.Path = "GET", "/"
		if hit, ok := r.Match(&test.req, 80); !ok || hit.Name != test.want {
			t.Errorf("upgrade %q of %q: %v %q, want %q", test.req.Upgrade, test.req.Authority, ok, hit.Name, test.want)
		}
	}
}
