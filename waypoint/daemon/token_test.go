package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
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
