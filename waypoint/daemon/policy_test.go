package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/waypoint/config"
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

// Routes of the clients' namespace make other requests of those that policies were asked about; a route of the service's own may.
func TestAClientsRouteGoesRoundNoPolicyOfTheService(t *testing.T) {
	m := newMesh(t, func(c *config.Config) { c.XFCC = true })
	var secrets atomic.Int32
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/secret" && strings.Contains(r.Header.Get("X-Forwarded-Client-Cert"), "ns/team/") {
			secrets.Add(1)
		}
		fmt.Fprintf(w, "web %s %s xfcc=%s for=%s role=%s", r.Host, r.URL.Path, r.Header["X-Forwarded-Client-Cert"], r.Header["X-Forwarded-For"], r.Header["X-Role"])
	})
	copies := make(chan string, 10)
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) { copies <- r.URL.Path })
	web := m.service("web", httpPort, 8080, serverHost)
	admin := &workload.Port{ServicePort: 81, TargetPort: 8080, AppProtocol: httpPort}
	web[0].(*workload.Service).Ports = append(web[0].(*workload.Service).Ports, admin)
	ports := web[1].(*workload.Workload).Services["shop/web.shop"]
	ports.Ports = append(ports.Ports, admin)
	m.know(web...)
	m.know(m.service("mine", httpPort, 8080, serverHost+1)...)
	m.know(policy("secret", "web", l7.Policy_DENY,
		&l7.PolicyRule{To: []*l7.Operation{{Paths: exactly("/secret")}, {Ports: &l7.Ports{Any: []uint32{81}}}, {Hosts: exactly("admin")}}},
		&l7.PolicyRule{When: []*l7.Condition{{Key: "request.headers[x-role]", Attribute: l7.Condition_REQUEST_HEADER, Header: "x-role", Values: exactly("root")}}}))
	changed := func(prefix, to string, port uint32, f *l7.Filters, mirrors ...string) *l7.Rule {
		r := rule(prefix, to)
		r.Backends[0].Ref.Port = port
		r.Filters = f
		for _, name := range mirrors {
			f.Mirrors = append(f.Mirrors, &l7.Mirror{Backend: &l7.BackendRef{Service: "shop/" + name + ".shop", Port: 80}})
		}
		return r
	}
	path := func(p string) *l7.Filters {
		return &l7.Filters{Rewrite: &l7.Rewrite{Path: &l7.PathChange{Change: &l7.PathChange_Full{Full: p}}}}
	}
	set := func(name, value string) *l7.Filters {
		return &l7.Filters{RequestHeaders: &l7.HeaderChange{Set: []*l7.Header{{Name: name, Value: value}}}}
	}
	perBackend := changed("/backends", "web", 80, nil)
	perBackend.Backends[0].Filters = path("/secret")
	rules := []*l7.Rule{
		changed("/path", "web", 80, path("/secret")), changed("/escaped", "web", 80, path("/%73ecret")), perBackend,
		changed("/port", "web", 81, nil), changed("/host", "web", 80, &l7.Filters{Rewrite: &l7.Rewrite{Hostname: "admin"}}),
		changed("/role", "web", 80, set("x-role", "root")), changed("/harmless", "web", 80, path("/open")),
		changed("/who", "web", 80, set("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")), changed("/for", "web", 80, set("x-forwarded-for", "10.9.9.9")),
		changed("/mine", "mine", 80, path("/secret")), changed("/mirror", "mine", 80, path("/secret"), "web", "mine"),
	}
	theirs := httpRoute("theirs", "web", rules...)
	theirs.Targets[0].ConsumerNamespace = "team"
	m.know(theirs, httpRoute("own", "web", rules...))
	team, shop := m.browser(m.caller("team", "client")), m.browser(m.caller("shop", "client"))
	truth := func(namespace string) string {
		return "xfcc=[By=spiffe://cluster.local/ns/shop/sa/wp;URI=spiffe://cluster.local/ns/" + namespace + "/sa/client] for=[127.0.0.1]"
	}
	for _, test := range []struct {
		path      string
		team, own int
	}{
		{"/path", 403, 200}, {"/escaped", 403, 200}, {"/backends", 403, 200}, {"/port", 403, 200}, {"/host", 403, 200}, {"/role", 403, 200},
		{"/harmless", 200, 200}, {"/who", 200, 200}, {"/for", 200, 200}, {"/mine", 200, 200}, {"/mirror", 200, 200}, {"/other", 404, 404},
	} {
		resp, text := fetch(t, team, "http://web"+test.path)
		if resp.StatusCode != test.team || resp.StatusCode == 200 && test.path != "/mine" && test.path != "/mirror" && !strings.Contains(text, truth("team")) {
			t.Errorf("%s by a route of the client's: %d %q, want %d", test.path, resp.StatusCode, text, test.team)
		}
		if resp, text := fetch(t, shop, "http://web"+test.path); resp.StatusCode != test.own {
			t.Errorf("%s by a route of the service's own: %d %q, want %d", test.path, resp.StatusCode, text, test.own)
		}
	}
	for range 6 { // of each client what /mine and /mirror lead to, and the copy
		select {
		case <-copies:
		case <-time.After(patience):
			t.Fatal("no copy came to the client's own service")
		}
	}
	if n := secrets.Load(); n != 0 {
		t.Errorf("%d requests and copies of the client came to what the policy denies", n)
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
