package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/metadata"
)

const (
	// Audience is whom a token must be made for.
	Audience = "istio-ca"
	// maxToken bounds a token, in bytes.
	maxToken = 8 << 10
	// skew is by how much the clock of who made a token may differ.
	skew = 30 * time.Second
)

// Caller is who called, as its token proves.
type Caller struct {
	Namespace, ServiceAccount string
	// Node is where the caller runs.
	Node string
}

// Account returns "namespace/name".
func (c Caller) Account() string { return c.Namespace + "/" + c.ServiceAccount }

// Tokens proves callers by tokens that one key has signed.
type Tokens struct {
	path string // of the public key

	lock sync.Mutex
	seen os.FileInfo // the file that key is from
	key  crypto.PublicKey
}

// NewTokens reads the key from a PEM file, each time that it changes. It need not be there yet; until then no caller is
// proven.
func NewTokens(path string) *Tokens { return &Tokens{path: path} }

// claims are those of a token beside the registered ones.
type claims struct {
	jwt.Claims
	Node    string `json:"node"`
	Account string `json:"account"`
}

// Authenticate proves the caller by the token of its call. The error says precisely what is wrong, so it is for the
// operator, not for the caller.
func (t *Tokens) Authenticate(ctx context.Context) (Caller, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return Caller{}, errors.New("no token")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "bearer") {
		return Caller{}, errors.New("want one authorization header with a bearer token")
	}
	return t.verify(token)
}

func (t *Tokens) verify(token string) (Caller, error) {
	if len(token) > maxToken {
		return Caller{}, fmt.Errorf("token exceeds %d bytes", maxToken)
	}
	key, err := t.current()
	if err != nil {
		return Caller{}, err
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil {
		return Caller{}, fmt.Errorf("parse token: %w", err)
	}
	var c claims
	if err := parsed.Claims(key, &c); err != nil {
		return Caller{}, fmt.Errorf("token is not signed by the key in %s: %w", t.path, err)
	}
	if c.Expiry == nil || c.IssuedAt == nil {
		return Caller{}, errors.New("token without exp or iat")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{Audience}, Time: time.Now()}, skew); err != nil {
		return Caller{}, fmt.Errorf("token of %s: %w", c.Account, err)
	}
	namespace, account, _ := strings.Cut(c.Account, "/")
	if namespace == "" || account == "" || strings.Contains(account, "/") {
		return Caller{}, fmt.Errorf("token with account %q: want namespace/name", c.Account)
	}
	return Caller{Namespace: namespace, ServiceAccount: account, Node: c.Node}, nil
}

// current returns the key, read again if the file changed.
func (t *Tokens) current() (crypto.PublicKey, error) {
	info, err := os.Stat(t.path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.seen != nil && os.SameFile(t.seen, info) && t.seen.ModTime().Equal(info.ModTime()) && t.seen.Size() == info.Size() {
		return t.key, nil
	}
	key, err := readPublicKey(t.path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	t.seen, t.key = info, key
	return key, nil
}

func readPublicKey(path string) (crypto.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no public key in PEM", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch key := key.(type) {
	case ed25519.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s: want an Ed25519 or a P-256 key", path)
}
