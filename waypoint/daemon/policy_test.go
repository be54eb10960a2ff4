package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// policy is one about a service of namespace shop.
func policy(name, service string, action l7.Policy_Action, rules ...*l7.PolicyRule) *l7.Resource {
	return &l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "AuthorizationPolicy", Namespace: "shop", Name: name},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/" + service + ".shop"}}},
		Kind:    &l7.Resource_Policy{Policy: &l7.Policy{Action: action, Rules: rules}},
	}
}

func exactly(values ...string) *l7.Values {
	v := &l7.Values{}
	for _, value := range values {
		v.Any = append(v.Any, &l7.StringMatch{Match: &l7.StringMatch_Exact{Exact: value}})
	}
	return v
}

// may lets an account do something.
func may(account, method string) *l7.PolicyRule {
	return &l7.PolicyRule{
		From: []*l7.Source{{Principals: exactly("cluster.local/ns/shop/sa/" + account)}}, To: []*l7.Operation{{Methods: exactly(method)}},
	}
}

func TestPoliciesDecideByTheClientsIdentityAndTheRequest(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(policy("readers", "web", l7.Policy_ALLOW, may("reader", "GET")),
		policy("secret", "web", l7.Policy_DENY, &l7.PolicyRule{To: []*l7.Operation{{Paths: exactly("/secret")}}}))
	for _, test := range []struct {
		account, method, path string
		status                int
		policy                string
	}{
		{"reader", "GET", "/", 200, ""},
		{"reader", "POST", "/", 403, ""},
		{"writer", "GET", "/", 403, ""},
		{"reader", "GET", "/secret", 403, "shop/secret"},
		{"reader", "GET", "/x/../secret", 403, "shop/secret"},
	} {
		c := m.browser(m.caller("shop", test.account))
		resp, text := fetch(t, c, "http://web"+test.path, func(r *http.Request) { r.Method = test.method })
		if resp.StatusCode != test.status || (test.status == 403) != (text == "RBAC: access denied") {
			t.Errorf("%s %s of %s: %d %q, want %d", test.method, test.path, test.account, resp.StatusCode, text, test.status)
		}
		if test.policy != "" {
			m.eventually("the log to name the policy", func() error {
				if !strings.Contains(m.log.String(), `policy="`+test.policy+`"`) {
					return errors.New("it doesn't")
				}
				return nil
			})
		}
	}
}

// A client keeps its connection for hours; what holds for its requests is what holds now.
func TestPoliciesAndRoutesOfTheMomentHoldOnAConnectionThatIsKept(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(want int) {
		t.Helper()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	ask(200)
	m.know(policy("nobody", "web", l7.Policy_DENY, &l7.PolicyRule{}))
	ask(403)
	m.know(policy("nobody", "web", l7.Policy_DENY, may("stranger", "GET")))
	ask(200)
}

// A connection that isn't looked into is asked about by the policies of the service that was dialled, wherever a route leads it, and by the server's
// name that it asks for.
func TestConnectionsAreAskedAboutByWhatTheyWereFor(t *testing.T) {
	m := newMesh(t)
	m.secret(serverHost, "one")
	m.know(m.service("one", workload.AppProtocol_TLS, 8443, serverHost)...)
	m.know(m.service("web", workload.AppProtocol_TLS, 8443, serverHost)...)
	m.know(m.service("led", workload.AppProtocol_TLS, 8443, serverHost)...)
	named := func(name string) *l7.PolicyRule {
		return &l7.PolicyRule{When: []*l7.Condition{{Attribute: l7.Condition_CONNECTION_SNI, Key: "connection.sni", Values: exactly(name)}}}
	}
	led := tcpRoute("led", "led", "one")
	led.Origin.Kind, led.GetRoute().Protocol = "TLSRoute", l7.Route_TLS
	m.know(led, policy("web", "web", l7.Policy_ALLOW, named("web.example")), policy("led", "led", l7.Policy_DENY, named("evil.example")), policy("one", "one", l7.Policy_ALLOW))
	client := m.caller("shop", "client")
	for _, test := range []struct{ service, serverName, want string }{
		{"web", "web.example", "one"}, {"web", "other.example", ""}, {"led", "web.example", "one"}, {"led", "evil.example", ""}, {"one", "web.example", ""},
	} {
		if got := m.asked(client, test.service, test.serverName); got != test.want {
			t.Errorf("%s for %s: %q, want %q", test.service, test.serverName, got, test.want)
		}
	}
}

func TestAPolicyChangeCutsOpaqueConnectionsThatItForbids(t *testing.T) {
	m := newMesh(t)
	m.shout(serverHost)
	m.know(m.service("db", workload.AppProtocol_TCP, 9000, serverHost)...)
	client := m.caller("shop", "client")
	conn, err := m.through(client, "db")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.know(policy("nobody", "db", l7.Policy_ALLOW))
	_, _ = io.ReadAll(conn) // returns when it is cut
	m.eventually("the cut to be counted", func() error {
		if m.metric("istio_tcp_connections_closed_total", `response_flags="DENY"`) == 0 {
			return errors.New("it isn't")
		}
		return nil
	})
	if _, err := m.through(client, "db"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a new connection: %v, want status 401", err)
	}
}

// What a waypoint doesn't know how to read may be a DENY.
func TestAResourceOfANewerSchemaRefusesEverything(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	newer := policy("newer", "web", l7.Policy_DENY)
	newer.Schema = 1000
	m.know(newer)
	resp, _ := fetch(t, m.browser(m.caller("shop", "client")), "http://web/")
	if resp.StatusCode != 403 && resp.StatusCode != 500 {
		t.Errorf("status %d, want a refusal", resp.StatusCode)
	}
}
