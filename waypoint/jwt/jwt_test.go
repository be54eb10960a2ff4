package jwt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

var now = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

var quiet = slog.New(slog.DiscardHandler)

// signer is an issuer's key.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func newSigner(t testing.TB, id string, a jose.SignatureAlgorithm) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch a {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{id, a, key}
}

func (s signer) key() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.Public(), KeyID: s.id, Algorithm: string(s.algorithm)}
}

// sign makes a token of the claims given, issued by "me" to subject "you" if they don't say.
func (s signer) sign(t testing.TB, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": "me", "sub": "you", "exp": now.Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return signRaw(t, s.algorithm, jose.JSONWebKey{Key: s.private, KeyID: s.id}, payload)
}

func signRaw(t testing.TB, a jose.SignatureAlgorithm, key any, payload []byte) string {
	t.Helper()
	maker, err := jose.NewSigner(jose.SigningKey{Algorithm: a, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := maker.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newKeys(t testing.TB) *jwt.Keys {
	client := &http.Client{Transport: &http.Transport{}}
	keys := jwt.NewKeys(client, quiet)
	t.Cleanup(func() {
		keys.Close()
		client.CloseIdleConnections()
	})
	return keys
}

// trust compiles issuers, as text of the protocol's. Those who don't say are called "me" and look for tokens in the usual header.
func trust(t testing.TB, keys *jwt.Keys, issuers ...string) *jwt.Set {
	t.Helper()
	a := compile(t, keys, issuers...)
	t.Cleanup(func() { keys.Release(a) })
	return jwt.Assemble([]*jwt.Authentication{a})
}

func compile(t testing.TB, keys *jwt.Keys, issuers ...string) *jwt.Authentication {
	t.Helper()
	return compileAt(t, keys, now, issuers...)
}

func compileAt(t testing.TB, keys *jwt.Keys, at time.Time, issuers ...string) *jwt.Authentication {
	t.Helper()
	message := &l7.Authentication{}
	for _, text := range issuers {
		var issuer l7.Issuer
		if err := prototext.Unmarshal([]byte(text), &issuer); err != nil {
			t.Fatal(err)
		}
		if issuer.Issuer == "" {
			issuer.Issuer = "me"
		}
		if len(issuer.FromHeaders)+len(issuer.FromParams)+len(issuer.FromCookies) == 0 {
			issuer.FromHeaders = []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}}
		}
		message.Issuers = append(message.Issuers, &issuer)
	}
	a, err := keys.Compile(&l7.Origin{Kind: "RequestAuthentication", Namespace: "shop", Name: "web"}, message, at)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// inline says that an issuer's keys are those of the signers.
func inline(t testing.TB, signers ...signer) string {
	t.Helper()
	var keys []jose.JSONWebKey
	for _, s := range signers {
		keys = append(keys, s.key())
	}
	return fmt.Sprintf("jwks:%q ", keySet(t, keys...))
}

// get makes a request of "target | name: value".
func get(text string) *exchange.Request {
	parts := strings.Split(text, " | ")
	req := &exchange.Request{Version: exchange.HTTP11, Method: "GET", Scheme: "http", Authority: "web.example", Path: parts[0]}
	for _, header := range parts[1:] {
		name, value, _ := strings.Cut(header, ": ")
		req.Fields = append(req.Fields, exchange.Field{Name: name, Value: value})
	}
	return req
}

func bearer(token string) *exchange.Request { return get("/a | authorization: Bearer " + token) }

// outcome is what became of a request, on one line.
func outcome(r jwt.Result) string {
	switch {
	case r.Waiting:
		return "waiting"
	case r.Refusal != nil:
		return fmt.Sprint(r.Refusal.Status, " ", r.Refusal.Reason)
	case r.Token != nil:
		return r.Token.Principal
	}
	return "nobody"
}

// check fails if there is anything to wait for.
func check(t testing.TB, s *jwt.Set, req *exchange.Request, at time.Time) string {
	t.Helper()
	return outcome(new(jwt.Checker).Check(s, req, at, func() { t.Error("again") }))
}

func TestEveryAlgorithmOfKeysThatOnlyIssuersHave(t *testing.T) {
	for _, a := range []jose.SignatureAlgorithm{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		one, other := newSigner(t, "k", a), newSigner(t, "k", a)
		s := trust(t, newKeys(t), inline(t, one))
		if got := check(t, s, bearer(one.sign(t, nil)), now); got != "me/you" {
			t.Errorf("%s: %s", a, got)
		}
		if got := check(t, s, bearer(other.sign(t, nil)), now); got != "401 Jwt verification fails" {
			t.Errorf("%s: another's key: %s", a, got)
		}
	}
}

// A key that says for which algorithm it is verifies no token of another (RFC 7517 section 4.4), though it could.
func TestAKeyIsForTheAlgorithmThatItNames(t *testing.T) {
	rs := newSigner(t, "rs", "RS256")
	const none = "401 Jwks doesn't have key to match kid or alg from Jwt"
	for _, test := range []struct{ key, token, want string }{
		{"RS256", "RS256", "me/you"}, {"RS256", "PS256", none}, {"RS256", "RS512", none}, {"PS256", "RS256", none}, {"PS256", "PS256", "me/you"},
		{"RSA-OAEP", "RS256", none}, {"ES256", "RS256", none}, {"", "RS256", "me/you"}, {"", "PS512", "me/you"},
	} {
		key := rs.key()
		key.Algorithm = test.key
		s := trust(t, newKeys(t), fmt.Sprintf("jwks:%q", keySet(t, key)))
		token := signRaw(t, jose.SignatureAlgorithm(test.token), jose.JSONWebKey{Key: rs.private, KeyID: "rs"}, []byte(`{"iss":"me","sub":"you"}`))
		if got := check(t, s, bearer(token), now); got != test.want {
			t.Errorf("a key for %q, a token of %s: %s, want %s", test.key, test.token, got, test.want)
		}
	}
}

func TestTokensThatAreNotValid(t *testing.T) {
	rs, es := newSigner(t, "rs", "RS256"), newSigner(t, "es", "ES256")
	s := trust(t, newKeys(t), inline(t, rs, es)+`audiences:"web" audiences:"api"`)
	good := rs.sign(t, map[string]any{"aud": "web"})
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	encode := base64.RawURLEncoding.EncodeToString
	publicKey := []byte(keySet(t, rs.key()))
	for name, c := range map[string][2]string{
		"valid":                    {good, "me/you"},
		"one of several audiences": {es.sign(t, map[string]any{"aud": []string{"x", "api"}}), "me/you"},
		"another audience":         {rs.sign(t, map[string]any{"aud": "x"}), "403 Audiences in Jwt are not allowed"},
		"no audience":              {rs.sign(t, nil), "403 Audiences in Jwt are not allowed"},
		"another issuer":           {rs.sign(t, map[string]any{"iss": "you", "aud": "web"}), "401 Jwt issuer is not configured"},
		"no issuer":                {rs.sign(t, map[string]any{"iss": nil, "aud": "web"}), "401 Jwt issuer is not configured"},
		"expired":                  {rs.sign(t, map[string]any{"aud": "web", "exp": now.Add(-61 * time.Second).Unix()}), "401 Jwt is expired"},
		"expired, within leeway":   {rs.sign(t, map[string]any{"aud": "web", "exp": now.Add(-59 * time.Second).Unix()}), "me/you"},
		"without an end":           {rs.sign(t, map[string]any{"aud": "web", "exp": nil}), "me/you"},
		"not yet":                  {rs.sign(t, map[string]any{"aud": "web", "nbf": now.Add(61 * time.Second).Unix()}), "401 Jwt not yet valid"},
		"not yet, within leeway":   {rs.sign(t, map[string]any{"aud": "web", "nbf": now.Add(59 * time.Second).Unix()}), "me/you"},
		"an unknown key":           {newSigner(t, "new", "RS256").sign(t, map[string]any{"aud": "web"}), "401 Jwks doesn't have key to match kid or alg from Jwt"},
		"no algorithm":             {encode([]byte(`{"alg":"none","kid":"rs"}`)) + "." + payload + ".", "401 Jwt header [alg] is not supported"},
		"a shared secret":          {signRaw(t, "HS256", publicKey, []byte(`{"iss":"me","aud":"web"}`)), "401 Jwt header [alg] is not supported"},
		"another's algorithm":      {signRaw(t, "ES256", jose.JSONWebKey{Key: es.private, KeyID: "rs"}, []byte(`{"iss":"me","aud":"web"}`)), "401 Jwks doesn't have key to match kid or alg from Jwt"},
		"another payload":          {head + "." + encode([]byte(`{"iss":"me","sub":"root","aud":"web"}`)) + "." + signature, "401 Jwt verification fails"},
		"no signature":             {head + "." + payload + ".", "401 Jwt verification fails"},
		"two parts":                {head + "." + payload, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		"four parts":               {good + ".x", "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		"nothing":                  {"", "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		"too long":                 {head + "." + strings.Repeat("a", 33<<10) + "." + signature, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		"no JSON":                  {signRaw(t, "RS256", rs.private, []byte("x")), "401 Jwt payload is an invalid JSON"},
		"a date that is none":      {rs.sign(t, map[string]any{"aud": "web", "exp": "tomorrow"}), "401 Jwt payload is an invalid JSON"},
		"an issuer that is none":   {rs.sign(t, map[string]any{"aud": "web", "iss": []string{"me"}}), "401 Jwt payload is an invalid JSON"},
	} {
		if got := check(t, s, bearer(c[0]), now); got != c[1] {
			t.Errorf("%s: %s, want %s", name, got, c[1])
		}
	}
}

func TestWhereTokensAre(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	token, bad := k.sign(t, nil), k.sign(t, map[string]any{"iss": "x"})
	s := trust(t, newKeys(t), inline(t, k)+`from_headers{name:"Authorization" prefix:"Bearer "} from_headers{name:"x-token"} from_params:"t" from_cookies:"c"`)
	for request, want := range map[string]string{
		"/":                                     "nobody",
		"/ | authorization: Basic dTpw":         "nobody",
		"/ | authorization: Bearer TOKEN":       "me/you",
		"/ | authorization: bearer  TOKEN ":     "me/you",
		"/ | authorization: Bearer":             "nobody",
		"/ | authorization: Bearer ":            "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
		"/ | x-token: TOKEN":                    "me/you",
		"/?t=TOKEN":                             "me/you",
		"/?a=b&%74=TOKEN":                       "me/you",
		"/ | cookie: a=b; c=TOKEN":              "me/you",
		"/ | cookie: a=b | cookie: c=\"TOKEN\"": "me/you",
		"/ | cookie: cc=TOKEN":                  "nobody",
		"/?t=BAD | x-token: TOKEN":              "401 Jwt issuer is not configured",
		"/?t=TOKEN&t=BAD":                       "401 Jwt issuer is not configured",
		"/ | x-token: TOKEN | x-token: BAD":     "401 Jwt issuer is not configured",
	} {
		if got := check(t, s, get(strings.NewReplacer("TOKEN", token, "BAD", bad).Replace(request)), now); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
}

func TestTokensGoNoFurtherUnlessTheyMay(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	token := k.sign(t, nil)
	const places = `from_headers{name:"x-token" prefix:"T "} from_params:"t" from_cookies:"c" `
	for forward, wants := range map[string]map[string]string{
		"": {
			"/ | x-token: T TOKEN | x-token: other | a: b": "/ | x-token: other | a: b",
			"/?t=TOKEN&a=b":                        "/?a=b",
			"/?t=TOKEN":                            "/",
			"/ | cookie: a=b; c=TOKEN; d=e | f: g": "/ | cookie: a=b; d=e | f: g",
			"/ | cookie: c=TOKEN":                  "/",
		},
		"forward_token:true": {"/?t=TOKEN | x-token: T TOKEN": "/?t=TOKEN | x-token: T TOKEN"},
	} {
		s := trust(t, newKeys(t), inline(t, k)+places+forward)
		for request, want := range wants {
			req := get(strings.ReplaceAll(request, "TOKEN", token))
			if got := check(t, s, req, now); got != "me/you" {
				t.Errorf("%s: %s", request, got)
			}
			got := req.Path
			for _, f := range req.Fields {
				got += " | " + f.Name + ": " + f.Value
			}
			if got = strings.ReplaceAll(got, token, "TOKEN"); got != want {
				t.Errorf("%s goes on as %s, want %s", request, got, want)
			}
		}
	}
}

func TestServersHearOfClaimsAndClientsCannotMakeThemUp(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	s := trust(t, newKeys(t), inline(t, k)+`payload_header:"X-Payload" claim_headers{header:"X-Group" claim:"nested" claim:"group"}
		claim_headers{header:"x-n" claim:"n"} claim_headers{header:"x-list" claim:"list"} claim_headers{header:"x-evil" claim:"evil"}`)
	const forged = " | x-payload: forged | x-group: forged | x-n: 1 | x-list: forged | x-evil: forged"
	token := k.sign(t, map[string]any{"nested": map[string]any{"group": "g"}, "n": 5, "list": []string{"a"}, "evil": "a\r\nb: c"})
	req := get("/ | authorization: Bearer " + token + forged)
	if got := check(t, s, req, now); got != "me/you" {
		t.Fatal(got)
	}
	want := fmt.Sprint([]exchange.Field{{Name: "x-payload", Value: strings.Split(token, ".")[1]}, {Name: "x-group", Value: "g"}, {Name: "x-n", Value: "5"}})
	if got := fmt.Sprint(req.Fields); got != want {
		t.Errorf("with a token: %s, want %s", got, want)
	}
	req = get("/" + forged)
	if check(t, s, req, now); len(req.Fields) > 0 {
		t.Errorf("without a token: %v", req.Fields)
	}
}

func TestIssuersOfSeveralPoliciesShareAPlace(t *testing.T) {
	one, two, three := newSigner(t, "1", "ES256"), newSigner(t, "2", "ES256"), newSigner(t, "3", "ES256")
	keys := newKeys(t)
	s := jwt.Assemble([]*jwt.Authentication{
		compile(t, keys, inline(t, one)+`issuer:"one" audiences:"a"`, inline(t, two)+`issuer:"two"`),
		compile(t, keys, inline(t, three)+`issuer:"one" audiences:"b"`, `issuer:"broken" invalid:"no address"`),
	})
	for name, c := range map[string][2]string{
		"the first's":                   {one.sign(t, map[string]any{"iss": "one", "aud": "a"}), "one/you"},
		"the second's":                  {two.sign(t, map[string]any{"iss": "two"}), "two/you"},
		"the other of the same name":    {three.sign(t, map[string]any{"iss": "one", "aud": "b"}), "one/you"},
		"that one's for the first's":    {three.sign(t, map[string]any{"iss": "one", "aud": "a"}), "403 Audiences in Jwt are not allowed"},
		"one's by the key of another":   {one.sign(t, map[string]any{"iss": "two"}), "401 Jwks doesn't have key to match kid or alg from Jwt"},
		"one whose keys can't be found": {one.sign(t, map[string]any{"iss": "broken"}), "401 Jwt issuer has no usable keys"},
	} {
		if got := check(t, s, bearer(c[0]), now); got != c[1] {
			t.Errorf("%s: %s, want %s", name, got, c[1])
		}
	}
	if jwt.Assemble(nil) != nil {
		t.Error("a set without issuers")
	}
}

func TestARefusalSaysWhatIsMissing(t *testing.T) {
	s := trust(t, newKeys(t), inline(t, newSigner(t, "k", "ES256")))
	r := new(jwt.Checker).Check(s, get(`/a"b?c | authorization: Bearer x`), now, nil)
	if want := `Bearer realm="http://web.example/a%22b", error="invalid_token"`; r.Refusal == nil || r.Refusal.Challenge != want {
		t.Errorf("%+v, want %s", r.Refusal, want)
	}
	r = new(jwt.Checker).Check(s, get("/"+strings.Repeat("a", 1000)+` | authorization: Bearer x`), now, nil)
	if len(r.Refusal.Challenge) > 300 {
		t.Errorf("a challenge of %d bytes", len(r.Refusal.Challenge))
	}
}

func TestAVerifiedTokenIsRememberedUntilItEnds(t *testing.T) {
	k := newSigner(t, "k", "RS256")
	token := k.sign(t, nil)
	keys := newKeys(t)
	s, other := trust(t, keys, inline(t, k)), trust(t, keys, inline(t, newSigner(t, "k", "RS256")))
	var c jwt.Checker
	ask := func(s *jwt.Set, token string, at time.Time) string {
		return outcome(c.Check(s, bearer(token), at, nil))
	}
	if got := ask(s, token, now); got != "me/you" {
		t.Fatal(got)
	}
	forwarding := trust(t, keys, inline(t, k)+"forward_token:true")
	ask(forwarding, token, now)
	req := bearer(token)
	if allocs := testing.AllocsPerRun(10, func() { c.Check(forwarding, req, now, nil) }); allocs > 0 {
		t.Errorf("%v allocations for a token that is remembered", allocs)
	}
	if got := ask(s, token, now); got != "me/you" {
		t.Fatal(got)
	}
	for name, c := range map[string][2]string{
		"a service that trusts others": {ask(other, token, now), "401 Jwt verification fails"},
		"when it has ended":            {ask(s, token, now.Add(time.Hour+2*time.Minute)), "401 Jwt is expired"},
		"one that is longer":           {ask(s, token+"A", now), "401 Jwt verification fails"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %s, want %s", name, c[0], c[1])
		}
	}
}

func TestKeysThatAreOfNoUse(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	encryption := k.key()
	encryption.Use = "enc"
	secret := jose.JSONWebKey{Key: []byte("secret"), KeyID: "k", Algorithm: "HS256"}
	private := jose.JSONWebKey{Key: k.private, KeyID: "k"}
	keys := newKeys(t)
	for name, set := range map[string]string{
		"none": `{"keys":[]}`, "no JSON": "x", "for encryption": keySet(t, encryption), "a secret": keySet(t, secret), "a private one": keySet(t, private),
		"unknown": `{"keys":[{"kty":"x"}]}`, "too many": `{"keys":[` + strings.Repeat(`{},`, 100) + `{}]}`,
	} {
		a, err := keys.Compile(&l7.Origin{}, &l7.Authentication{Issuers: []*l7.Issuer{{
			Issuer: "me", Keys: &l7.Issuer_Jwks{Jwks: set}, FromHeaders: []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}},
		}}}, now)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := check(t, jwt.Assemble([]*jwt.Authentication{a}), bearer(k.sign(t, nil)), now); got != "401 Jwt issuer has no usable keys" {
			t.Errorf("%s: %s", name, got)
		}
	}
	mixed := strings.Replace(keySet(t, k.key()), `"keys":[`, `"keys":[{"kty":"new"},{"kty":"oct","k":"AA"},`, 1)
	if got := check(t, trust(t, keys, fmt.Sprintf("jwks:%q", mixed)), bearer(k.sign(t, nil)), now); got != "me/you" {
		t.Errorf("beside keys of no use: %s", got)
	}
}

// FuzzToken: whatever a client sends as a token, none is valid that the issuer didn't sign.
func FuzzToken(f *testing.F) {
	k := newSigner(f, "k", "ES256")
	good := k.sign(f, nil)
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOiJtZSJ9.")
	s := trust(f, newKeys(f), inline(f, k)+`from_headers{name:"authorization" prefix:"Bearer "} from_params:"t" from_cookies:"c"`)
	f.Fuzz(func(t *testing.T, text string) {
		signed := strings.Join(strings.Split(good, ".")[:2], ".")
		for _, req := range []*exchange.Request{bearer(text), get("/?t=" + text), get("/ | cookie: c=" + text)} {
			r := new(jwt.Checker).Check(s, req, now, func() { t.Error("again") })
			if r.Token != nil && !strings.Contains(text, signed) {
				t.Errorf("%q is valid", text)
			}
		}
	})
}
