package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tulle-mesh/tulle/mesh/token"
)

// Caller is who called, as its token proves.
type Caller struct {
	Namespace, ServiceAccount string
	// Node is where the caller runs.
	Node string
}

// Account returns "namespace/name".
func (c Caller) Account() string { return c.Namespace + "/" + c.ServiceAccount }

type callerKey struct{}

// WithCaller puts the proven caller of a call into its context.
func WithCaller(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// CallerOf returns the proven caller; ok is false if none was.
func CallerOf(ctx context.Context) (caller Caller, ok bool) {
	caller, ok = ctx.Value(callerKey{}).(Caller)
	return caller, ok
}

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

// Check tells why no caller can be proven now, for the operator to hear at the start.
func (t *Tokens) Check() error {
	_, err := t.current()
	return err
}

// Authenticate proves the caller by the token of its call. The error says precisely what is wrong, so it is for the
// operator, not for the caller.
func (t *Tokens) Authenticate(ctx context.Context) (Caller, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return Caller{}, errors.New("no token")
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "bearer") {
		return Caller{}, errors.New("want one authorization header with a bearer token")
	}
	key, err := t.current()
	if err != nil {
		return Caller{}, err
	}
	claims, err := token.Verify(text, key, time.Now())
	if err != nil {
		return Caller{}, fmt.Errorf("%w (its key is in %s)", err, t.path)
	}
	namespace, account, _ := claims.Split()
	return Caller{Namespace: namespace, ServiceAccount: account, Node: claims.Node}, nil
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
	key, err := token.ReadPublicKey(t.path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	t.seen, t.key = info, key
	return key, nil
}
