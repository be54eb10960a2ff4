package table_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

var now = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func newBuilder(t testing.TB) *table.Builder {
	keys := jwt.NewKeys(&http.Client{}, slog.New(slog.DiscardHandler))
	t.Cleanup(keys.Close)
	return table.NewBuilder("shop/waypoint", "istio-waypoint", keys)
}

func resource(t testing.TB, text string) *l7.Resource {
	t.Helper()
	var message l7.Resource
	if err := prototext.Unmarshal([]byte(text), &message); err != nil {
		t.Fatal(err)
	}
	return &message
}

// httpRoute is a resource with a route whose only rule matches everything and has the name.
func httpRoute(name, targets string) string {
	return fmt.Sprintf(`schema:1 %s route{protocol:HTTP precedence:%q rules{name:%[2]q matches{}}}`, targets, name)
}

// by names the rule by which a request goes.
func by(t *table.Table, service string, port uint16, namespace string) string {
	rules := t.Lookup(service, port, namespace)
	if rules.Routes == nil {
		return "none"
	}
	h, ok := rules.Routes.Match(&exchange.Request{Method: "GET", Path: "/"}, port)
	switch {
	case !ok:
		return "no match"
	case h.Invalid != "":
		return "refused"
	}
	return h.Name
}

func TestConsumersRoutesThenTheServicesThenTheGateways(t *testing.T) {
	b := newBuilder(t)
	for name, targets := range map[string]string{
		"consumer": `targets{service:"shop/web" ports:80 consumer_namespace:"team"}`,
		"service":  `targets{service:"shop/web" ports:80 ports:81}`,
		"gateway":  `targets{gateway:"shop/waypoint"}`,
		"at-82":    `targets{gateway:"shop/waypoint" ports:82}`,
		"class":    `targets{gateway_class:"istio-waypoint" ports:83}`,
		"foreign":  `targets{gateway:"other/waypoint"} targets{gateway_class:"other"}`,
	} {
		if err := b.Set(name, resource(t, httpRoute(name, targets)), now); err != nil {
			t.Fatal(err)
		}
	}
	all := b.Table()
	for _, c := range []struct {
		service   string
		port      uint16
		namespace string
		want      string
	}{
		{"shop/web", 80, "team", "consumer"}, {"shop/web", 80, "other", "service"}, {"shop/web", 80, "", "service"}, {"shop/web", 81, "team", "service"},
		{"shop/web", 84, "team", "gateway"}, {"shop/db", 80, "team", "gateway"}, {"shop/db", 82, "team", "at-82"}, {"shop/db", 83, "team", "class"},
		{"", 80, "team", "none"}, // a pod that is dialled itself
	} {
		if got := by(all, c.service, c.port, c.namespace); got != c.want {
			t.Errorf("%s:%d from %s goes by %s, want %s", c.service, c.port, c.namespace, got, c.want)
		}
	}
	b.Remove("consumer")
	b.Remove("gateway")
	b.Remove("never was")
	fewer := b.Table()
	if got := by(fewer, "shop/web", 80, "team") + by(fewer, "shop/db", 80, "team") + by(fewer, "shop/db", 82, ""); got != "servicenoneat-82" {
		t.Errorf("without the consumer's and the gateway's: %s", got)
	}
	if got := by(all, "shop/web", 80, "team"); got != "consumer" {
		t.Errorf("the table before goes by %s now", got)
	}
	if all.Lookup("shop/web", 81, "").Routes != fewer.Lookup("shop/web", 81, "").Routes {
		t.Error("routes that haven't changed were made again")
	}
}

func TestAResourceTakesThePlaceOfItsLastVersion(t *testing.T) {
	b := newBuilder(t)
	set := func(name, text string) {
		t.Helper()
		if err := b.Set(name, resource(t, text), now); err != nil {
			t.Fatal(err)
		}
	}
	set("a", httpRoute("a1", `targets{service:"shop/web" ports:80}`))
	set("b", httpRoute("b1", `targets{service:"shop/web" ports:80}`))
	if got := by(b.Table(), "shop/web", 80, ""); got != "a1" {
		t.Error(got)
	}
	set("a", httpRoute("c2", `targets{service:"shop/web" ports:80}`))
	if got := by(b.Table(), "shop/web", 80, ""); got != "b1" {
		t.Error(got)
	}
	set("b", httpRoute("b2", `targets{service:"shop/web" ports:81}`))
	moved := b.Table()
	if got := by(moved, "shop/web", 80, "") + by(moved, "shop/web", 81, ""); got != "c2b2" {
		t.Error(got)
	}
}

func TestWhatIsNotKnownRefusesAllOfItsServices(t *testing.T) {
	for name, text := range map[string]string{
		"newer schema":      `schema:2 targets{service:"shop/web" ports:80} route{protocol:HTTP rules{matches{}}}`,
		"kind not known":    `schema:1 targets{service:"shop/web" ports:80}`,
		"target not known":  `schema:2 targets{} route{}`,
		"newer for gateway": `schema:2 targets{gateway:"shop/waypoint"} policy{}`,
		"newer for class":   `schema:2 targets{gateway_class:"istio-waypoint"} authentication{}`,
	} {
		b := newBuilder(t)
		if err := b.Set("good", resource(t, httpRoute("good", `targets{service:"shop/web" ports:80}`)), now); err != nil {
			t.Fatal(err)
		}
		if err := b.Set("x", resource(t, text), now); err == nil {
			t.Errorf("%s: no error", name)
		}
		now := b.Table()
		if got := by(now, "", 80, ""); name != "newer schema" && name != "kind not known" && got != "refused" {
			t.Errorf("%s: a pod goes by %s", name, got)
		}
		for _, port := range []uint16{80, 81} {
			if got := by(now, "shop/web", port, "team"); got != "refused" {
				t.Errorf("%s: port %d goes by %s", name, port, got)
			}
		}
		b.Remove("x")
		if got := by(b.Table(), "shop/web", 80, ""); got != "good" {
			t.Errorf("%s: when it has gone, by %s", name, got)
		}
	}
	b := newBuilder(t)
	if err := b.Set("x", resource(t, `schema:2 targets{gateway:"other/waypoint"} policy{}`), now); err == nil {
		t.Error("no error")
	}
	if got := by(b.Table(), "shop/web", 80, ""); got != "none" {
		t.Errorf("what is another waypoint's refuses ours: %s", got)
	}
}

func TestWhatCannotBeReadMayBeAboutAnything(t *testing.T) {
	b := newBuilder(t)
	if err := b.Set("known", resource(t, httpRoute("good", `targets{service:"shop/web" ports:80}`)), now); err != nil {
		t.Fatal(err)
	}
	b.Unreadable("known")
	if got := by(b.Table(), "shop/web", 80, ""); got != "good" {
		t.Errorf("a next version that can't be read: goes by %s", got)
	}
	b.Unreadable("new")
	if got := by(b.Table(), "shop/web", 80, "") + by(b.Table(), "shop/db", 80, ""); got != "refusedrefused" {
		t.Errorf("one that never could: goes by %s", got)
	}
	if err := b.Set("new", resource(t, httpRoute("new", `targets{service:"shop/db" ports:80}`)), now); err != nil {
		t.Fatal(err)
	}
	if got := by(b.Table(), "shop/web", 80, "") + by(b.Table(), "shop/db", 80, ""); got != "goodnew" {
		t.Errorf("when it can be read: goes by %s", got)
	}
}

func TestPoliciesOfTheServiceTheGatewayAndItsClassAllCount(t *testing.T) {
	b := newBuilder(t)
	set := func(name, text string) {
		t.Helper()
		if err := b.Set(name, resource(t, text), now); err != nil {
			t.Fatal(err)
		}
	}
	const deny = ` policy{action:DENY rules{to{methods{any{exact:%q}}}}}`
	set("service", `schema:1 targets{service:"shop/web"} origin{namespace:"shop" name:"service"}`+fmt.Sprintf(deny, "A"))
	set("gateway", `schema:1 targets{gateway:"shop/waypoint"} origin{namespace:"shop" name:"gateway"}`+fmt.Sprintf(deny, "B"))
	set("class", `schema:1 targets{gateway_class:"istio-waypoint"} origin{namespace:"root" name:"class"}`+fmt.Sprintf(deny, "C"))
	set("foreign", `schema:1 targets{gateway:"shop/other"}`+fmt.Sprintf(deny, "D"))
	denials := func(service string) (all string) {
		connection := authz.NewConnection(identity.Workload{}, netip.Addr{}, netip.AddrPort{}, "")
		for method := range strings.SplitSeq("ABCD", "") {
			v := authz.Evaluate(b.Table().Lookup(service, 80, "").Policies, authz.Facts{Connection: connection, Request: &exchange.Request{Method: method, Path: "/"}})
			if !v.Allowed {
				all += " " + v.Policy
			}
		}
		return all
	}
	if got := denials("shop/web"); got != " shop/service shop/gateway root/class" {
		t.Errorf("of the service:%s", got)
	}
	if got := denials("shop/db"); got != " shop/gateway root/class" {
		t.Errorf("of another service:%s", got)
	}
	if got := denials(""); got != " shop/gateway root/class" {
		t.Errorf("of a pod:%s", got)
	}
	b.Remove("gateway")
	b.Remove("service")
	if got := denials("shop/web"); got != " root/class" {
		t.Errorf("without two of them:%s", got)
	}
}

func TestIssuersOfTheServiceAndTheGatewayAreTrusted(t *testing.T) {
	b := newBuilder(t)
	const issuer = `schema:1 targets{%s} authentication{issuers{issuer:"i" invalid:"none" from_headers{name:%q}}}`
	for name, targets := range map[string]string{"x-service": `service:"shop/web"`, "x-gateway": `gateway:"shop/waypoint"`} {
		if err := b.Set(name, resource(t, fmt.Sprintf(issuer, targets, name)), now); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		service, header string
		refused         bool
	}{{"shop/web", "x-service", true}, {"shop/web", "x-gateway", true}, {"shop/db", "x-gateway", true}, {"shop/db", "x-service", false}} {
		req := &exchange.Request{Path: "/", Fields: []exchange.Field{{Name: c.header, Value: "x"}}}
		if r := new(jwt.Checker).Check(b.Table().Lookup(c.service, 80, "").Issuers, req, now, nil); (r.Refusal != nil) != c.refused {
			t.Errorf("%s in %s: %+v", c.service, c.header, r)
		}
	}
	b.Remove("x-gateway")
	if b.Table().Lookup("shop/db", 80, "").Issuers != nil {
		t.Error("issuers that are gone are trusted")
	}
}

func TestBackendsAreSpokenToAsTheirPortSays(t *testing.T) {
	b := newBuilder(t)
	set := func(name, text string, good bool) {
		t.Helper()
		if err := b.Set(name, resource(t, text), now); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	says := func(at *table.Table, service string, port uint16, want string) {
		t.Helper()
		got := "nothing"
		if p := at.BackendTLS(service, port); p != nil {
			got = p.Invalid
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s:%d: %q, want %q", service, port, got, want)
		}
	}
	before := b.Table()
	set("b-all", `schema:1 targets{service:"shop/web"} targets{service:"shop/api" ports:81} backend_tls{hostname:"x" invalid:"of all"}`, true)
	set("c-all", `schema:1 targets{service:"shop/web"} backend_tls{hostname:"x" invalid:"later in the alphabet"}`, true)
	set("port", `schema:1 targets{service:"shop/web" ports:81} backend_tls{hostname:"x" invalid:"of a port"}`, true)
	set("bad", `schema:1 targets{service:"shop/bad"} backend_tls{hostname:"x" authorities:"none"}`, false)
	set("new", `schema:2 targets{service:"shop/new"} backend_tls{}`, false)
	says(before, "shop/web", 80, "nothing")
	now := b.Table()
	says(now, "shop/web", 80, "of all")
	says(now, "shop/web", 81, "of a port")
	says(now, "shop/api", 80, "nothing")
	says(now, "shop/api", 81, "of all")
	says(now, "shop/bad", 80, "trusts no authority")
	says(now, "shop/new", 80, "has schema 2")
	one := now.BackendTLS("shop/web", 81)
	set("port", `schema:1 targets{service:"shop/web" ports:81} backend_tls{hostname:"x" invalid:"of a port"}`, true)
	if b.Table().BackendTLS("shop/web", 81) != one {
		t.Error("what says the same as before is another policy")
	}
	for _, name := range []string{"b-all", "port", "bad", "new"} {
		b.Remove(name)
	}
	now = b.Table()
	says(now, "shop/web", 81, "later in the alphabet")
	for _, service := range []string{"shop/api", "shop/bad", "shop/new"} {
		says(now, service, 81, "nothing")
	}
}
