package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// key makes a pair and writes its public half to a file.
func key(t testing.TB) (ed25519.PrivateKey, string) {
	t.Helper()
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key, write(t, public)
}

func write(t testing.TB, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTokenSaysWhoItsFor(t *testing.T) {
	key, file := key(t)
	public, err := ReadPublicKey(file)
	if err != nil {
		t.Fatal(err)
	}
	claims := Claims{Node: "node1", Account: "istio-system/ztunnel", TTL: time.Hour}
	text, err := Sign(key, claims)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Verify(text, public, time.Now()); err != nil || got != claims {
		t.Errorf("verified as %+v, %v", got, err)
	}
	// What others read of it.
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := parsed.Claims(public, &all); err != nil {
		t.Fatal(err)
	}
	for claim, want := range map[string]any{
		"iss": "tulle", "sub": "system:serviceaccount:istio-system:ztunnel", "aud": "istio-ca", "node": "node1", "account": "istio-system/ztunnel",
	} {
		if all[claim] != want {
			t.Errorf("%s is %v, want %v", claim, all[claim], want)
		}
	}
}

func TestTokensThatProveNobody(t *testing.T) {
	key, file := key(t)
	public, err := ReadPublicKey(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Sign(key, Claims{Node: "node1", Account: "a/b", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	other := ed25519.NewKeyFromSeed(make([]byte, 32))
	for name, c := range map[string]struct {
		text string
		key  crypto.PublicKey
		now  time.Time
		want string
	}{
		"expired":         {text, public, time.Now().Add(time.Hour + 2*skew), "expired"},
		"not yet":         {text, public, time.Now().Add(-2 * skew), "issued in the future"},
		"of another key":  {text, other.Public(), time.Now(), "not signed by the key"},
		"cut":             {text[:len(text)-3], public, time.Now(), "not signed by the key"},
		"huge":            {strings.Repeat("x", maxSize+1), public, time.Now(), "exceeds 8192 bytes"},
		"without account": {signed(t, key, map[string]any{"account": nil}), public, time.Now(), `account "": want namespace/name`},
		"without end":     {signed(t, key, map[string]any{"exp": nil}), public, time.Now(), "without exp"},
		"for another":     {signed(t, key, map[string]any{"aud": "api"}), public, time.Now(), "audience"},
	} {
		got, err := Verify(c.text, c.key, c.now)
		if err == nil || !strings.Contains(err.Error(), c.want) || got != (Claims{}) {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, c.want)
		}
	}
}

// signed makes a token of good claims but for those given.
func signed(t *testing.T, key ed25519.PrivateKey, change map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	text, err := jwt.Signed(signer).Claims(map[string]any{"aud": Audience, "iat": now, "exp": now + 60, "account": "a/b"}).Claims(change).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokensThatMustNotBe(t *testing.T) {
	key, _ := key(t)
	for _, claims := range []Claims{
		{Node: "", Account: "a/b", TTL: time.Hour},
		{Node: "n", Account: "", TTL: time.Hour},
		{Node: "n", Account: "a", TTL: time.Hour},
		{Node: "n", Account: "/b", TTL: time.Hour},
		{Node: "n", Account: "a/", TTL: time.Hour},
		{Node: "n", Account: "a/b/c", TTL: time.Hour},
		{Node: "n", Account: "a/b", TTL: 0},
		{Node: "n", Account: "a/b", TTL: -time.Hour},
		{Node: "n", Account: "a/b", TTL: MaxTTL + 1},
	} {
		if _, err := Sign(key, claims); err == nil {
			t.Errorf("a token for %+v", claims)
		}
	}
}

func TestKeysThatAreNone(t *testing.T) {
	_, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rsa := "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABA\n-----END PRIVATE KEY-----\n"
	for name, text := range map[string]string{"empty": "", "not PEM": "secret", "the public half": string(public), "of another kind": rsa} {
		file := write(t, []byte(text))
		if _, err := ReadKey(file); err == nil || !strings.Contains(err.Error(), "tulle token key FILE") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadKey("/no/such/key"); err == nil {
		t.Error("read a key that doesn't exist")
	}
}

func TestPublicKeysThatCannotBeUsed(t *testing.T) {
	pemOf := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}) }
	larger, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(larger.Public())
	if err != nil {
		t.Fatal(err)
	}
	for want, file := range map[string]string{
		"no such file":                   filepath.Join(t.TempDir(), "missing"),
		"no public key in PEM":           write(t, []byte("x")),
		"asn1":                           write(t, pemOf([]byte("x"))),
		"want an Ed25519 or a P-256 key": write(t, pemOf(der)),
	} {
		if _, err := ReadPublicKey(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("want %s, have %v", want, err)
		}
	}
}

// FuzzToken: nothing that isn't signed proves anybody.
func FuzzToken(f *testing.F) {
	_, file := key(f)
	public, err := ReadPublicKey(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if claims, err := Verify(text, public, time.Now()); err == nil || claims != (Claims{}) {
			t.Errorf("%q is %+v", text, claims)
		}
	})
}
