// Package token makes the keys and the signed tokens by which nodes prove themselves to istiod-lite where there is no
// Kubernetes to vouch for them.
package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Audience is what istiod-lite expects its tokens to be meant for.
const Audience = "istio-ca"

// MaxTTL is the longest time that a token may be valid: a year.
const MaxTTL = 365 * 24 * time.Hour

// Claims say for whom a token is.
type Claims struct {
	Node    string        // the node that the bearer runs on
	Account string        // "namespace/name"
	TTL     time.Duration // from now on, more than 0 and at most MaxTTL
}

// Sign makes a token that anybody with the public key can verify.
func Sign(key ed25519.PrivateKey, c Claims) (string, error) {
	namespace, name, ok := strings.Cut(c.Account, "/")
	switch {
	case !ok || namespace == "" || name == "" || strings.Contains(name, "/"):
		return "", fmt.Errorf("account %q: want NAMESPACE/NAME", c.Account)
	case c.Node == "":
		return "", errors.New("a token needs the name of its node")
	case c.TTL <= 0 || c.TTL > MaxTTL:
		return "", fmt.Errorf("a token can't be valid for %s: want more than 0 and at most %s", c.TTL, MaxTTL)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("use the key: %w", err)
	}
	now := time.Now()
	standard := jwt.Claims{
		Issuer:   "tulle",
		Subject:  "system:serviceaccount:" + namespace + ":" + name,
		Audience: jwt.Audience{Audience},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(c.TTL)),
	}
	ours := map[string]any{"node": c.Node, "account": c.Account}
	text, err := jwt.Signed(signer).Claims(standard).Claims(ours).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text, nil
}

// NewKey makes a key pair: the private half as PKCS #8 in PEM, which must stay secret, and the public half as PKIX in
// PEM, which istiod-lite gets.
func NewKey() (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	private, err = x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the private key: %w", err)
	}
	public, err = x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), nil
}

// ParseKey reads the private half of NewKey.
func ParseKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("want a PEM file with a PRIVATE KEY; make one with: tulle token key FILE")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an Ed25519 key, this is a %T; make one with: tulle token key FILE", parsed)
	}
	return key, nil
}

// ReadKey reads the private half of NewKey from a file.
func ReadKey(file string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}
