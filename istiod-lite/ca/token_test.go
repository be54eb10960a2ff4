package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func keyFileWith(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token-key.pub")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func public(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("PUBLIC KEY", der)
}

func TestKeysOfTokensThatCannotBeUsed(t *testing.T) {
	for want, path := range map[string]string{
		"read token key: stat":           filepath.Join(t.TempDir(), "missing"),
		"no public key in PEM":           keyFileWith(t, []byte("x")),
		"asn1":                           keyFileWith(t, pemOf("PUBLIC KEY", []byte("x"))),
		"want an Ed25519 or a P-256 key": keyFileWith(t, public(t, rsaKey(t, 2048).Public())),
	} {
		if _, err := NewTokens(path).verify("x.y.z"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, have %v", want, err)
		}
	}
}

// FuzzToken: nothing that isn't signed proves anybody.
func FuzzToken(f *testing.F) {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	tokens := NewTokens(keyFileWith(f, public(f, key)))
	f.Add("eyJhbGciOiJub25lIn0.eyJhY2NvdW50IjoiYS9iIn0.")
	f.Add("eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJpc3Rpby1jYSIsImFjY291bnQiOiJhL2IifQ.AAAA")
	f.Add("..")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, token string) {
		if caller, err := tokens.verify(token); err == nil || caller != (Caller{}) {
			t.Errorf("%q is %+v", token, caller)
		}
	})
}
