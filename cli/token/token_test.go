package token

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func TestTokenSaysWhoItsFor(t *testing.T) {
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(public), "BEGIN PUBLIC KEY") {
		t.Errorf("the public half is\n%s", public)
	}
	key, err := ParseKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Sign(key, Claims{Node: "node1", Account: "istio-system/ztunnel", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var standard jwt.Claims
	var ours struct {
		Node    string `json:"node"`
		Account string `json:"account"`
	}
	if err := parsed.Claims(key.Public(), &standard, &ours); err != nil {
		t.Fatal(err)
	}
	expected := jwt.Expected{Issuer: "tulle", Subject: "system:serviceaccount:istio-system:ztunnel", AnyAudience: jwt.Audience{"istio-ca"}, Time: time.Now()}
	if err := standard.Validate(expected); err != nil {
		t.Error(err)
	}
	if life := standard.Expiry.Time().Sub(standard.IssuedAt.Time()); life != time.Hour {
		t.Errorf("it's valid for %s", life)
	}
	if ours.Node != "node1" || ours.Account != "istio-system/ztunnel" {
		t.Errorf("its claims are %+v", ours)
	}
}

func TestTokensThatMustNotBe(t *testing.T) {
	private, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(private)
	if err != nil {
		t.Fatal(err)
	}
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
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(file); err == nil || !strings.Contains(err.Error(), "tulle token key FILE") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadKey("/no/such/key"); err == nil {
		t.Error("read a key that doesn't exist")
	}
}
