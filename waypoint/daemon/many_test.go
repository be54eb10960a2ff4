package daemon

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

const (
	manyRules = 5000
	// ruleRoom is what a route, or a rule of a policy, may cost here in bytes, the control plane's copy of it included.
	ruleRoom = 3 << 10
)

// Of thousands of routes and of rules of policies, those decide that match, wherever they stand; and of what is gone nothing stays, least of all what
// it allowed.
func TestThousandsOfRulesDecideAndLeaveNothingBehind(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	check := func(when, path string, status int, served string) {
		t.Helper()
		resp, text := fetch(t, c, "http://web"+path)
		if resp.StatusCode != status || !strings.HasPrefix(text, served) {
			t.Errorf("%s, %s: %d %q, want %d %q", when, path, resp.StatusCode, text, status, served)
		}
	}
	check("before", "/p0", 200, "web GET /p0 ")
	before := heapNow()

	var all []proto.Message
	allow, deny := policy("allow", "web", l7.Policy_ALLOW), policy("deny", "web", l7.Policy_DENY)
	for i := range manyRules {
		r := rule(fmt.Sprintf("/p%d", i), "web")
		r.Filters = &l7.Filters{Rewrite: &l7.Rewrite{Path: &l7.PathChange{Change: &l7.PathChange_Full{Full: fmt.Sprintf("/by%d", i)}}}}
		all = append(all, httpRoute(fmt.Sprintf("r%05d", i), "web", r))
		deny.GetPolicy().Rules = append(deny.GetPolicy().Rules, &l7.PolicyRule{To: []*l7.Operation{{Paths: exactly(fmt.Sprintf("/p%d/secret", i))}}})
		allow.GetPolicy().Rules = append(allow.GetPolicy().Rules, &l7.PolicyRule{To: []*l7.Operation{{Paths: prefixed(fmt.Sprintf("/p%d/", i))}}})
	}
	allow.GetPolicy().Rules = append(allow.GetPolicy().Rules, &l7.PolicyRule{To: []*l7.Operation{{Paths: exactly("/unrouted")}}})
	m.know(append(all, allow, deny)...)
	for _, i := range []int{0, manyRules / 2, manyRules - 1} {
		path := fmt.Sprintf("/p%d", i)
		check("with all", path+"/open", 200, fmt.Sprintf("web GET /by%d ", i))
		check("with all", path+"/secret", 403, "RBAC: access denied")
		check("with all", path, 403, "RBAC: access denied") // which no rule allows
	}
	check("with all", "/unrouted", 404, "")
	check("with all", fmt.Sprintf("/p%d/open", manyRules), 403, "RBAC: access denied")
	taken := int64(heapNow()) - int64(before)
	if taken > 3*manyRules*ruleRoom {
		t.Errorf("%d routes and %d rules of policies take %d bytes", manyRules, 2*manyRules, taken)
	}

	var routes []string
	for i := range manyRules {
		routes = append(routes, fmt.Sprintf("HTTPRoute/shop/r%05d", i))
	}
	m.istiod.Remove(resourceType, append(routes, "AuthorizationPolicy/shop/deny")...)
	m.know()
	check("without routes and denials", "/p0/secret", 200, "web GET /p0/secret ")
	check("without routes and denials", "/p0", 403, "RBAC: access denied")
	m.istiod.Remove(resourceType, "AuthorizationPolicy/shop/allow")
	m.know()
	check("afterwards", "/p0", 200, "web GET /p0 ")
	if left := int64(heapNow()) - int64(before); left > taken/4 { // maps keep their room
		t.Errorf("of %d bytes what is gone has left %d", taken, left)
	}
}

func prefixed(value string) *l7.Values {
	return &l7.Values{Any: []*l7.StringMatch{{Match: &l7.StringMatch_Prefix{Prefix: value}}}}
}
