// Package token is the signed token by which a node proves itself to istiod-lite where there is no Kubernetes to vouch
// for it: a JWT that names the node and the account.
package token

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// Audience is whom a token is made for.
	Audience = "istio-ca"
	// MaxTTL is the longest time that Sign makes a token valid for: a year.
	MaxTTL = 365 * 24 * time.Hour
	// maxSize bounds a token, in bytes.
	maxSize = 8 << 10
	// skew is by how much the clock of who made a token may differ.
	skew = 30 * time.Second
)

// Claims say for whom a token is.
type Claims struct {
	Node    string        // the node that the bearer runs on; Verify takes tokens without
	Account string        // "namespace/name"
	TTL     time.Duration // from when it was signed, more than 0; Sign makes it at most MaxTTL
}

// Split returns the two parts of the account; ok is false if those aren't two.
func (c Claims) Split() (namespace, name string, ok bool) {
	namespace, name, ok = strings.Cut(c.Account, "/")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, "/")
}

// payload are the claims as they are written.
type payload struct {
	jwt.Claims
	Node    string `json:"node"`
	Account string `json:"account"`
}

// Sign makes a token that anybody with the public key can verify.
func Sign(key ed25519.PrivateKey, c Claims) (string, error) {
	namespace, name, ok := c.Split()
	switch {
	case !ok:
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
	text, err := jwt.Signed(signer).Claims(payload{
		Claims: jwt.Claims{
			Issuer:   "tulle",
			Subject:  "system:serviceaccount:" + namespace + ":" + name,
			Audience: jwt.Audience{Audience},
			IssuedAt: jwt.NewNumericDate(now),
			Expiry:   jwt.NewNumericDate(now.Add(c.TTL)),
		},
		Node: c.Node, Account: c.Account,
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text, nil
}

// Verify returns what a token claims if the key, Ed25519 or P-256, signed it and it is valid now. The error says
// precisely what is wrong, so it is for the operator, not for the bearer.
func Verify(text string, key crypto.PublicKey, now time.Time) (Claims, error) {
	if len(text) > maxSize {
		return Claims{}, fmt.Errorf("token exceeds %d bytes", maxSize)
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil {
		return Claims{}, fmt.Errorf("parse token: %w", err)
	}
	var p payload
	if err := parsed.Claims(key, &p); err != nil {
		return Claims{}, fmt.Errorf("token is not signed by the key: %w", err)
	}
	if p.Expiry == nil || p.IssuedAt == nil {
		return Claims{}, errors.New("token without exp or iat")
	}
	if err := p.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{Audience}, Time: now}, skew); err != nil {
		return Claims{}, fmt.Errorf("token of %s: %w", p.Account, err)
	}
	c := Claims{Node: p.Node, Account: p.Account, TTL: p.Expiry.Time().Sub(p.IssuedAt.Time())}
	if _, _, ok := c.Split(); !ok {
		return Claims{}, fmt.Errorf("token with account %q: want namespace/name", c.Account)
	}
	return c, nil
}
