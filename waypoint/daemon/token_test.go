package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// issuer makes tokens, and its keys as issuers publish them.
func issuer(t *testing.T) (sign func(subject string) string, keys string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return func(subject string) string {
		text, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: "issuer", Subject: subject, Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour))}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}, string(public)
}

// A token whose keys have to be fetched first holds its request up, and nothing else.
func TestTokensProveWhoAsks(t *testing.T) {
	sign, keys := issuer(t)
	var fetched atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		time.Sleep(50 * time.Millisecond)
		_, _ = w.Write([]byte(keys))
	}))
	defer server.Close()
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(&l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "RequestAuthentication", Namespace: "shop", Name: "tokens"},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/web.shop"}}},
		Kind: &l7.Resource_Authentication{Authentication: &l7.Authentication{Issuers: []*l7.Issuer{{
			Issuer: "issuer", Keys: &l7.Issuer_JwksUri{JwksUri: server.URL}, FromHeaders: []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}},
		}}}},
	}, policy("proven", "web", l7.Policy_ALLOW, &l7.PolicyRule{From: []*l7.Source{{RequestPrincipals: exactly("issuer/alice")}}}))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		name, token string
		status      int
	}{
		{"the right one", sign("alice"), 200},
		{"again", sign("alice"), 200},
		{"somebody else's", sign("mallory"), 403},
		{"none", "", 403},
		{"a broken one", "x.y.z", 401},
		{"a changed one", sign("alice")[:20] + "A" + sign("alice")[21:], 401},
	} {
		resp, text := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method, r.Body = "POST", http.NoBody
			if test.token != "" {
				r.Header.Set("Authorization", "Bearer "+test.token)
			}
		})
		if resp.StatusCode != test.status || (test.status == 401) != strings.HasPrefix(resp.Header.Get("Www-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %q %v, want %d", test.name, resp.StatusCode, text, resp.Header, test.status)
		}
	}
	if n := fetched.Load(); n != 1 {
		t.Errorf("keys were fetched %d times, want once", n)
	}
}

// What tokens claim the waypoint alone tells servers. Who writes routes for clients may be one of them: no route of theirs says it in other words or
// takes it away, wherever it leads, nor brings the service a token that nobody has checked. A route of the service's own may.
func TestAClientsRouteForgesNoClaimAndNoToken(t *testing.T) {
	sign, keys := issuer(t)
	m := newMesh(t)
	said := func(r *http.Request) string {
		return fmt.Sprintf("sub=%s payload=%d token=%s cookie=%s", r.Header["X-Sub"], len(r.Header["X-Payload"]), r.Header["X-Token"], r.Header["Cookie"])
	}
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, said(r)) })
	copies := make(chan string, 2)
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) { copies <- said(r) })
	for name, host := range map[string]byte{"web": serverHost, "granted": serverHost, "copied": serverHost + 1} {
		m.know(m.service(name, httpPort, 8080, host)...)
	}
	m.know(&l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "RequestAuthentication", Namespace: "shop", Name: "tokens"},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/web.shop"}}},
		Kind: &l7.Resource_Authentication{Authentication: &l7.Authentication{Issuers: []*l7.Issuer{{
			Issuer: "issuer", Keys: &l7.Issuer_Jwks{Jwks: keys}, FromHeaders: []*l7.TokenHeader{{Name: "x-token", Prefix: "Bearer "}}, FromCookies: []string{"token"},
			PayloadHeader: "X-Payload", ClaimHeaders: []*l7.ClaimHeader{{Header: "X-Sub", Claim: []string{"sub"}}},
		}, {Issuer: "issuer", Keys: &l7.Issuer_Jwks{Jwks: keys}, FromHeaders: []*l7.TokenHeader{{Name: "x-kept"}}, ForwardToken: true}}}},
	}, policy("mallory", "web", l7.Policy_DENY, &l7.PolicyRule{From: []*l7.Source{{RequestPrincipals: exactly("issuer/mallory")}}}))
	change := func(prefix, to string, h *l7.HeaderChange) *l7.Rule {
		r := rule(prefix, to)
		r.Filters = &l7.Filters{RequestHeaders: h}
		return r
	}
	header := func(name, value string) []*l7.Header { return []*l7.Header{{Name: name, Value: value}} }
	each := rule("/each", "web")
	each.Backends[0].Filters = &l7.Filters{RequestHeaders: &l7.HeaderChange{Set: header("x-sub", "root"), Remove: []string{"x-payload"}}}
	copied := change("/copied", "web", &l7.HeaderChange{Set: header("x-sub", "root")})
	copied.Filters.Mirrors = []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/copied.shop", Port: 80}}}
	rules := []*l7.Rule{
		change("/set", "web", &l7.HeaderChange{Set: header("X-Sub", "root")}), change("/add", "web", &l7.HeaderChange{Add: header("x-sub", "root")}),
		change("/remove", "web", &l7.HeaderChange{Remove: []string{"x-sub", "x-payload"}}), change("/payload", "web", &l7.HeaderChange{Set: header("x-payload", "e30")}),
		each, copied, change("/elsewhere", "granted", &l7.HeaderChange{Set: header("x-sub", "root")}),
		change("/token", "web", &l7.HeaderChange{Set: header("x-token", "bearer x.y.z")}), change("/cookie", "web", &l7.HeaderChange{Add: header("cookie", "a=b; token=x.y.z")}),
		change("/second", "web", &l7.HeaderChange{Add: header("x-kept", "x.y.z")}), change("/taken", "web", &l7.HeaderChange{Remove: []string{"x-kept"}}),
		change("/other", "web", &l7.HeaderChange{Set: header("x-token", "Basic x"), Add: header("cookie", "a=b")}), rule("/", "web"),
	}
	theirs := httpRoute("theirs", "web", rules...)
	theirs.Targets[0].ConsumerNamespace = "team"
	m.know(theirs, httpRoute("own", "web", rules...))
	team, shop := m.browser(m.caller("team", "client")), m.browser(m.caller("shop", "client"))
	nobody, alice := "sub=[] payload=0 token=[] cookie=[]", "sub=[alice] payload=1 token=[] cookie=[]"
	kept := func(r *http.Request) { r.Header.Set("X-Kept", sign("alice")) }
	for path, want := range map[string]int{"/plain": 200, "/second": 403, "/taken": 403} {
		if resp, text := fetch(t, team, "http://web"+path, kept); resp.StatusCode != want {
			t.Errorf("%s, with a token that is kept: %d %s, want %d", path, resp.StatusCode, text, want)
		}
	}
	for _, test := range []struct{ path, token, want string }{
		{"/set", "", nobody}, {"/add", "", nobody}, {"/remove", "", nobody}, {"/payload", "", nobody}, {"/each", "", nobody}, {"/copied", "", nobody},
		{"/elsewhere", "", nobody}, {"/plain", "", nobody},
		{"/set", sign("alice"), alice}, {"/add", sign("alice"), alice}, {"/remove", sign("alice"), alice}, {"/payload", sign("alice"), alice},
		{"/each", sign("alice"), alice}, {"/copied", sign("alice"), alice}, {"/elsewhere", sign("alice"), alice}, {"/plain", sign("alice"), alice},
		{"/token", "", ""}, {"/cookie", "", ""}, {"/token", sign("alice"), ""}, {"/cookie", sign("alice"), ""},
		{"/other", "", "sub=[] payload=0 token=[Basic x] cookie=[a=b]"}, {"/plain", sign("mallory"), ""},
	} {
		resp, text := fetch(t, team, "http://web"+test.path, func(r *http.Request) {
			r.Header.Set("X-Sub", "forged")
			r.Header.Set("X-Payload", "e30")
			if test.token != "" {
				r.Header.Set("X-Token", "Bearer "+test.token)
			}
		})
		if test.want == "" && resp.StatusCode != 403 || test.want != "" && (resp.StatusCode != 200 || text != test.want) {
			t.Errorf("%s, token %q: %d %s, want %q", test.path, test.token, resp.StatusCode, text, test.want)
		}
		if test.path == "/copied" {
			if got := <-copies; got != test.want {
				t.Errorf("a copy is told %s, want %s", got, test.want)
			}
		}
	}
	for path, want := range map[string]string{"/set": "sub=[root] payload=0 token=[] cookie=[]", "/token": "sub=[] payload=0 token=[bearer x.y.z] cookie=[]"} {
		if _, text := fetch(t, shop, "http://web"+path); text != want {
			t.Errorf("%s by a route of the service's own: %s, want %s", path, text, want)
		}
	}
}
