package authz_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

func tryPolicy(t testing.TB, name, text string) (*authz.Policy, error) {
	t.Helper()
	var message l7.Policy
	if err := prototext.Unmarshal([]byte(text), &message); err != nil {
		t.Fatal(err)
	}
	return authz.Compile(&l7.Origin{Kind: "AuthorizationPolicy", Namespace: "shop", Name: name}, &message)
}

// set makes policies of their texts, named a, b and so on.
func set(t testing.TB, texts ...string) *authz.Set {
	t.Helper()
	var list []*authz.Policy
	for i, text := range texts {
		p, err := tryPolicy(t, string(rune('a'+i)), text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return authz.Assemble(list)
}

// asked are the facts of a request "METHOD host/path | header: value", by a client whose identity is given, with a token.
func asked(t testing.TB, peer, request, token string) authz.Facts {
	t.Helper()
	var id identity.Workload
	if peer != "" {
		var err error
		if id, err = identity.Parse("spiffe://" + peer); err != nil {
			t.Fatal(err)
		}
	}
	f := authz.Facts{
		Connection: authz.NewConnection(id, netip.MustParseAddr("::ffff:10.0.0.7"), netip.MustParseAddrPort("10.1.0.1:80"), "web.example"),
		Remote:     netip.MustParseAddr("1.2.3.9"),
	}
	if token != "" {
		c, err := claims.Parse([]byte(token))
		if err != nil {
			t.Fatal(err)
		}
		f.Token = c.WithWordLists([]string{"words"})
	}
	if request == "" {
		return f
	}
	parts := strings.Split(request, " | ")
	method, rest, _ := strings.Cut(parts[0], " ")
	host, path, _ := strings.Cut(rest, "/")
	f.Request = &exchange.Request{Method: method, Scheme: "http", Authority: host, Path: "/" + path}
	for _, header := range parts[1:] {
		name, value, _ := strings.Cut(header, ": ")
		f.Request.Fields = append(f.Request.Fields, exchange.Field{Name: name, Value: value})
	}
	return f
}

const client = "cluster.local/ns/team/sa/client"

func TestEveryAttribute(t *testing.T) {
	const token = `{"iss":"https://i","sub":"me","aud":["web","api"],"azp":"app","scope":"read write","words":"x y","group":"g1","realm":{"roles":["admin","dev"]},"n":5,"empty":"","permission":{"of":"a b"}}`
	for _, c := range []struct{ rule, yes, no string }{
		{`from{principals{any{exact:"cluster.local/ns/team/sa/client"}}}`, client, "cluster.local/ns/team/sa/other ; "},
		{`from{principals{any{suffix:"/sa/client"}}}`, client + " ; td/ns/x/sa/client", "td/ns/x/sa/clients ; "},
		{`from{principals{any{prefix:"cluster.local/ns/team/"}}}`, client, "cluster.local/ns/teams/sa/a ; "},
		{`from{principals{any{present:true}}}`, client, ""},
		{`from{principals{none{exact:"cluster.local/ns/team/sa/client"}}}`, "td/ns/x/sa/y ; ", client},
		{`from{namespaces{any{exact:"team"}}}`, client, "td/ns/x/sa/y ; "},
		{`from{namespaces{any{prefix:"te"} none{exact:"test"}}}`, client, "td/ns/test/sa/y ; td/ns/x/sa/y"},
		{`from{service_accounts{any{exact:"team/client"}}}`, client, "td/ns/team/sa/c ; td/ns/x/sa/client ; "},
		{`from{trust_domains{any{exact:"cluster.local"}}}`, client, "td/ns/team/sa/client ; "},
		{`from{namespaces{any{exact:"x"}}} from{namespaces{any{exact:"team"}}}`, client, "td/ns/y/sa/y"},
		{`from{namespaces{any{exact:"team"}} trust_domains{any{exact:"td"}}}`, "td/ns/team/sa/a", client},
		{`from{ip_blocks{any:"10.0.0.0/8"}}`, client, "-"},
		{`from{ip_blocks{any:"10.0.0.0/8" none:"10.0.0.7/32"}}`, "-", client},
		{`from{ip_blocks{none:"fd00::/8"}}`, client, "-"},
		{`from{remote_ip_blocks{any:"1.2.3.0/24"}}`, client, "-"},
		{`from{request_principals{any{exact:"https://i/me"}}}`, "token", client},
		{`from{request_principals{any{prefix:"https://i/"}}}`, "token", client},
		{`from{request_principals{any{present:true}}}`, "token", client},
		{`from{request_principals{none{present:true}}}`, client + ` ; {"iss":"i"} ; {"sub":"s"}`, "token"},
		{`to{methods{any{exact:"GET"} any{exact:"HEAD"}}}`, "GET h/ ; HEAD h/", "get h/ ; POST h/"},
		{`to{methods{none{exact:"GET"}}}`, "POST h/", "GET h/"},
		{`to{hosts{any{exact:"web.example"}}}`, "GET web.example/ ; GET WEB.example:8080/ ; GET web.example./", "GET web.examples/ ; GET a.web.example/ ; GET /"},
		{`to{hosts{any{exact:"Web.EXAMPLE"}}}`, "GET web.example/", "GET webs.example/"},
		{`to{hosts{any{exact:"web.example:80"}}}`, "GET web.example:80/", "GET web.example/ ; GET web.example:81/"},
		{`to{hosts{any{suffix:".example"}}}`, "GET a.b.EXAMPLE:80/", "GET example/ ; GET a.example.x/"},
		{`to{hosts{any{prefix:"web."}}}`, "GET web.x:80/", "GET webs/ ; GET a.web.x/"},
		{`to{hosts{any{present:true}}}`, "GET a/", "GET /"},
		{`to{hosts{none{exact:"web.example"}}}`, "GET a/ ; GET /", "GET web.example:80/ ; GET Web.Example/"},
		{`to{paths{any{exact:"/a"}}}`, "GET h/a ; GET h/a?b", "GET h/a/ ; GET h/ab ; GET h/A"},
		{`to{paths{any{prefix:"/a/"}}}`, "GET h/a/ ; GET h/a/b", "GET h/a ; GET h/ab ; GET h/x/a/"},
		{`to{paths{any{prefix:"/a/b"}}}`, "GET h/a/b ; GET h/a/bc", "GET h/a/ ; GET h/b"},
		{`to{paths{any{prefix:"/"}}}`, "GET h/ ; GET h/x", "-"},
		{`to{paths{any{suffix:".jpg"}}}`, "GET h/a/b.jpg?x", "GET h/a?x=.jpg"},
		{`to{paths{any{exact:"/%61%2fb"}}}`, "-", "GET h/a/b"},
		{`to{paths{none{prefix:"/admin"}}}`, "GET h/a", "GET h/admin ; GET h/admin/x ; GET h//admin ; GET h/x%2F..%2Fadmin"},
		{`to{paths{any{template:"/d/{*}/e/{**}"}}}`, "GET h/d/1/e/ ; GET h/d/1/e/f/g", "GET h/d/1/e ; GET h/d/1/2/e/f ; GET h/e/"},
		{`to{ports{any:80}}`, client, "-"},
		{`to{ports{none:80}}`, "-", client},
		{`to{paths{any{exact:"/a"}} methods{any{exact:"GET"}}} to{paths{any{exact:"/b"}}}`, "GET h/a ; POST h/b", "POST h/a ; GET h/c"},
		{`from{namespaces{any{exact:"team"}}} to{paths{any{exact:"/a"}}} when{attribute:REQUEST_HEADER header:"x" values{any{exact:"1"}}}`, "GET h/a | x: 1", "GET h/a ; GET h/b | x: 1"},
		{`when{attribute:REQUEST_HEADER header:"x" values{any{exact:"1"} any{prefix:"a"}}}`, "GET h/ | x: 1 ; GET h/ | x: abc", "GET h/ ; GET h/ | x: 2 ; GET h/ | x: 1 | x: 2"},
		{`when{attribute:REQUEST_HEADER header:"x" values{any{present:true}}}`, "GET h/ | x: 1 ; GET h/ | x: ", "GET h/ ; GET h/ | y: 1"},
		{`when{attribute:REQUEST_HEADER header:"x" values{none{exact:"1"}}}`, "GET h/ ; GET h/ | x: 2", "GET h/ | x: 1"},
		{`when{attribute:REQUEST_HEADER header:"x" values{none{present:true}}}`, "GET h/", "GET h/ | x: 1 ; GET h/ | x: "},
		{`when{attribute:REQUEST_HEADER header:"host" values{any{exact:"H"}}}`, "GET H/", "GET h/"},
		{`when{attribute:REQUEST_HEADER header:":method" values{any{exact:"PUT"}}}`, "PUT h/", "GET h/"},
		{`when{attribute:REQUEST_HEADER header:":path" values{any{exact:"/a?b"}}}`, "PUT h/a?b", "GET h/a"},
		{`when{attribute:SOURCE_IP ranges{any:"10.0.0.7/32"}}`, client, "-"},
		{`when{attribute:REMOTE_IP ranges{none:"1.2.3.0/24"}}`, "-", client},
		{`when{attribute:DESTINATION_IP ranges{any:"10.1.0.1/32"}}`, client, "-"},
		{`when{attribute:DESTINATION_PORT ports{any:80 none:81}}`, client, "-"},
		{`when{attribute:SOURCE_NAMESPACE values{any{exact:"team"}}}`, client, "td/ns/a/sa/b ; "},
		{`when{attribute:SOURCE_SERVICE_ACCOUNT values{any{exact:"team/client"}}}`, client, "td/ns/a/sa/b ; "},
		{`when{attribute:SOURCE_TRUST_DOMAIN values{none{exact:"td"}}}`, client + " ; ", "td/ns/a/sa/b"},
		{`when{attribute:SOURCE_PRINCIPAL values{any{exact:"cluster.local/ns/team/sa/client"}}}`, client, "td/ns/a/sa/b ; "},
		{`when{attribute:CONNECTION_SNI values{any{suffix:".example"}}}`, client, "-"},
		{`when{attribute:REQUEST_PRINCIPAL values{any{exact:"https://i/me"}}}`, "token", client},
		{`when{attribute:REQUEST_AUDIENCES values{any{exact:"api"}}}`, "token", client},
		{`when{attribute:REQUEST_AUDIENCES values{none{exact:"api"}}}`, client, "token"},
		{`when{attribute:REQUEST_PRESENTER values{any{exact:"app"}}}`, "token", client},
		{`when{attribute:REQUEST_CLAIM claim:"group" values{any{exact:"g1"}}}`, "token", client},
		{`when{attribute:REQUEST_CLAIM claim:"group" values{none{exact:"g2"}}}`, "token ; " + client, "-"},
		{`when{attribute:REQUEST_CLAIM claim:"realm" claim:"roles" values{any{exact:"dev"}}}`, "token", client},
		{`when{attribute:REQUEST_CLAIM claim:"realm" claim:"roles" values{any{exact:"dev"} none{exact:"admin"}}}`, "-", "token"},
		{`when{attribute:REQUEST_CLAIM claim:"realm" values{any{present:true}}}`, "-", "token"},
		{`when{attribute:REQUEST_CLAIM claim:"scope" values{any{exact:"write"}}}`, "token", client},
		{`when{attribute:REQUEST_CLAIM claim:"scope" values{any{exact:"read write"}}}`, "-", "token"},
		{`when{attribute:REQUEST_CLAIM claim:"words" values{any{exact:"y"}}}`, "token", "-"},
		{`when{attribute:REQUEST_CLAIM claim:"permission" claim:"of" values{any{exact:"a b"}}}`, "token", "-"},
		{`when{attribute:REQUEST_CLAIM claim:"n" values{any{exact:"5"}}}`, "-", "token"},
		{`when{attribute:REQUEST_CLAIM claim:"empty" values{any{present:true}}}`, "-", "token"},
		{`when{attribute:REQUEST_CLAIM claim:"group" claim:"deeper" values{any{present:true}}}`, "-", "token"},
		{``, client + " ; GET h/ ; token", "-"},
	} {
		allow, deny := set(t, `action:ALLOW rules{`+c.rule+`}`), set(t, `action:DENY rules{`+c.rule+`}`)
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for who := range strings.SplitSeq(list, " ; ") {
				var facts authz.Facts
				switch {
				case who == "-":
					continue
				case strings.HasPrefix(who, "{"):
					facts = asked(t, "", "GET h/", who)
				case who == "token":
					facts = asked(t, "", "GET h/", token)
				case strings.Contains(who, "/ns/") || who == "":
					facts = asked(t, who, "GET h/", "")
				default:
					facts = asked(t, client, who, "")
				}
				if v := authz.Evaluate([]*authz.Set{allow}, facts); v.Allowed != want {
					t.Errorf("ALLOW %s: %q: %+v", c.rule, who, v)
				}
				merged := strings.Contains(who, "//") || strings.Contains(who, "%2F") // then an ALLOW of one reading isn't enough, nor a DENY
				if v := authz.Evaluate([]*authz.Set{deny}, facts); v.Allowed == want && !merged {
					t.Errorf("DENY %s: %q: %+v", c.rule, who, v)
				}
			}
		}
	}
}

func TestDenyGoesBeforeAllowAndCustomDenies(t *testing.T) {
	const everyone, nobody = `rules{}`, ``
	for _, c := range []struct {
		name, want string
		policies   []string
	}{
		{"no policies", "allowed by ", nil},
		{"an ALLOW that matches", "allowed by shop/a", []string{`action:ALLOW ` + everyone}},
		{"an ALLOW without rules", "refused by : allow policies exist, but none allowed", []string{`action:ALLOW ` + nobody}},
		{"a DENY without rules", "allowed by ", []string{`action:DENY ` + nobody}},
		{"a DENY beside an ALLOW", "refused by shop/b: denied by policy shop/b", []string{`action:ALLOW ` + everyone, `action:DENY ` + everyone}},
		{"the first of two", "refused by shop/a: denied by policy shop/a", []string{`action:DENY ` + everyone, `action:DENY ` + everyone}},
		{"a provider nobody knows", `refused by shop/b: policy shop/b asks provider "p", which isn't known`, []string{`action:ALLOW ` + everyone, `action:CUSTOM provider:"p" ` + everyone}},
		{"CUSTOM that doesn't match", "allowed by ", []string{`action:CUSTOM provider:"p" ` + nobody}},
		{"AUDIT only tells", "allowed by  audited [shop/a]", []string{`action:AUDIT ` + everyone, `action:AUDIT ` + nobody}},
		{"dry runs only tell", "allowed by  dry run [shop/a shop/b]", []string{`action:DENY dry_run:true ` + everyone, `action:ALLOW dry_run:true ` + everyone, `action:ALLOW dry_run:true ` + nobody}},
	} {
		v := authz.Evaluate([]*authz.Set{set(t, c.policies...)}, asked(t, client, "GET h/", ""))
		got := "allowed by " + v.Policy
		if !v.Allowed {
			got = "refused by " + v.Policy + ": " + v.Reason
		}
		if len(v.Audited) > 0 {
			got += fmt.Sprint(" audited ", v.Audited)
		}
		if len(v.DryRun) > 0 {
			got += fmt.Sprint(" dry run ", v.DryRun)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAllSetsOfAServiceCount(t *testing.T) {
	never, allow, deny := set(t, `action:ALLOW`), set(t, `action:ALLOW rules{}`), set(t, `action:DENY rules{}`)
	for _, c := range []struct {
		sets []*authz.Set
		want bool
	}{
		{nil, true}, {[]*authz.Set{never}, false}, {[]*authz.Set{never, allow}, true}, {[]*authz.Set{allow, never}, true}, {[]*authz.Set{allow, deny}, false}, {[]*authz.Set{deny, allow}, false},
	} {
		if v := authz.Evaluate(c.sets, asked(t, client, "GET h/", "")); v.Allowed != c.want {
			t.Errorf("%v: %+v", c.sets, v)
		}
	}
}

func TestWhatCannotBeEvaluatedNeverOpensADoor(t *testing.T) {
	for _, rule := range []string{
		`when{key:"experimental.x" values{any{exact:"1"}}}`,
		`when{attribute:99 key:"newer" values{any{exact:"1"}}}`,
		`when{attribute:REQUEST_HEADER header:"content-length" values{none{exact:"1"}}}`,
		`from{ip_blocks{none:"10.0.0.0/33"}}`,
		`from{namespaces{none{}}}`,
		`to{paths{none{template:"/a/{x}"}}}`,
		`to{paths{none{template:"/{**}/{**}"}}}`,
		`to{paths{none{template:"a/{*}"}}}`,
		`to{paths{none{exact:"/%"}}}`,
	} {
		for action, want := range map[string]bool{"ALLOW": false, "DENY": false, "CUSTOM": false} {
			p, err := tryPolicy(t, "a", `action:`+action+` rules{`+rule+`}`)
			if err == nil {
				t.Errorf("%s %s: no error", action, rule)
			}
			for _, request := range []string{"GET h/", ""} {
				if v := authz.Evaluate([]*authz.Set{authz.Assemble([]*authz.Policy{p})}, asked(t, client, request, "")); v.Allowed != want {
					t.Errorf("%s %s: %+v", action, rule, v)
				}
			}
		}
	}
	for _, text := range []string{`rules{from{namespaces{any{exact:"nobody"}}}}`, `action:9`} {
		p, err := tryPolicy(t, "a", text)
		if v := authz.Evaluate([]*authz.Set{authz.Assemble([]*authz.Policy{p})}, asked(t, client, "GET h/", "")); err == nil || v.Allowed {
			t.Errorf("an action that isn't known: %v, %+v", err, v)
		}
	}
}

// As with Istio: of a connection, an ALLOW rule about requests matches nothing, and a DENY rule by what is known of connections.
func TestConnectionsAreDecidedByWhatIsKnownOfThem(t *testing.T) {
	for policy, want := range map[string]bool{
		`action:ALLOW rules{from{namespaces{any{exact:"team"}}}}`:                               true,
		`action:ALLOW rules{from{namespaces{any{exact:"team"}}} to{methods{any{exact:"GET"}}}}`: false,
		`action:ALLOW rules{to{paths{none{exact:"/a"}}}}`:                                       false,
		`action:ALLOW rules{from{request_principals{none{present:true}}}}`:                      false,
		`action:DENY rules{to{ports{any:80} methods{any{exact:"GET"}}}}`:                        false,
		`action:DENY rules{to{ports{any:81} methods{any{exact:"GET"}}}}`:                        true,
		`action:DENY rules{from{namespaces{any{exact:"x"}}} to{paths{any{exact:"/a"}}}}`:        true,
		`action:DENY rules{when{attribute:REQUEST_CLAIM claim:"a" values{any{exact:"b"}}}}`:     false,
		`action:DENY rules{when{attribute:REQUEST_HEADER header:"a" values{any{exact:"b"}}}}`:   false,
		`action:DENY rules{from{principals{any{exact:"cluster.local/ns/team/sa/client"}}}}`:     false,
		`action:ALLOW rules{when{attribute:CONNECTION_SNI values{any{exact:"web.example"}}}}`:   true,
	} {
		if v := authz.Evaluate([]*authz.Set{set(t, policy)}, asked(t, client, "", "")); v.Allowed != want {
			t.Errorf("%s: %+v", policy, v)
		}
	}
}

func TestAPathThatServersReadInTwoWaysHasToBeAllowedInBoth(t *testing.T) {
	for _, c := range []struct {
		policy, path string
		want         bool
	}{
		{`action:DENY rules{to{paths{any{prefix:"/admin"}}}}`, "//admin", false},
		{`action:DENY rules{to{paths{any{prefix:"/admin"}}}}`, "/x/..%2Fadmin", false},
		{`action:DENY rules{to{paths{any{exact:"/a//b"}}}}`, "/a//b", false},
		{`action:DENY rules{to{paths{any{exact:"/a/b"}}}}`, "/a%2Fb", false},
		{`action:DENY rules{to{paths{any{exact:"/a/b"}}}}`, "/a//c", true},
		{`action:ALLOW rules{to{paths{any{prefix:"/public/"}}}}`, "/public//a", true},
		{`action:ALLOW rules{to{paths{any{prefix:"/public/"}}}}`, "/public/..%2Fadmin", false},
		{`action:ALLOW rules{to{paths{any{exact:"/a//b"}}}}`, "/a//b", false},
	} {
		if v := authz.Evaluate([]*authz.Set{set(t, c.policy)}, asked(t, client, "GET h"+c.path, "")); v.Allowed != c.want {
			t.Errorf("%s: %s: %+v", c.policy, c.path, v)
		}
	}
}

func TestEvaluatingCostsNoAllocation(t *testing.T) {
	var texts []string
	for i := range 50 {
		texts = append(texts, fmt.Sprintf(`action:DENY rules{from{principals{any{exact:"td/ns/x/sa/%d"}}}} rules{to{paths{any{prefix:"/p%d/"}} methods{any{exact:"PUT"}}}}
			rules{when{attribute:REQUEST_HEADER header:"x" values{any{exact:"%d"}}}} rules{from{namespaces{any{suffix:"-%d"}}}}`, i, i, i, i))
	}
	sets := []*authz.Set{set(t, append(texts, `action:ALLOW rules{to{paths{any{template:"/api/{*}/x"}}} when{attribute:REQUEST_CLAIM claim:"a" claim:"b" values{any{exact:"c"}}}}`)...)}
	facts := asked(t, client, "GET web.example:80/api/1/x?y | accept: */* | x: z", `{"iss":"i","sub":"s","a":{"b":["d","c"]}}`)
	if allocs := testing.AllocsPerRun(100, func() {
		if !authz.Evaluate(sets, facts).Allowed {
			t.Error("refused")
		}
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
