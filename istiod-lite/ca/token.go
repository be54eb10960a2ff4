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
	// Node is where the caller runs; empty if the token doesn't say.
	Node string
	// Pod is the pod, in the same namespace, whose token it is; empty if it isn't bound to one.
	Pod, PodUID string
}

// Authenticator proves the caller by the credentials of a call. The error says precisely what is wrong, so it is for the
// operator, not for the caller. It is an ErrUnavailable if the caller may be good.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

// Account returns "namespace/name".
func (c Caller) Account() string { return c.Namespace + "/" + c.ServiceAccount }

// client names the process that called, as far as is known: a node's proxy or a pod.
func (c Caller) client() string { return c.Account() + " " + c.Node + " " + c.Pod }

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

// Bearer returns the token of a call.
func Bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return "", errors.New("no token")
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "bearer") {
		return "", errors.New("want one authorization header with a bearer token")
	}
	return text, nil
}

// Authenticate proves the caller by the token of its call.
func (t *Tokens) Authenticate(ctx context.Context) (Caller, error) {
	text, err := Bearer(ctx)
	if err != nil {
		return Caller{}, err
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
		return nil, fmt.Errorf("read token key: %w: %w", err, ErrUnavailable)
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.seen != nil && os.SameFile(t.seen, info) && t.seen.ModTime().Equal(info.ModTime()) && t.seen.Size() == info.Size() {
		return t.key, nil
	}
	key, err := token.ReadPublicKey(t.path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w: %w", err, ErrUnavailable)
	}
	t.seen, t.key = info, key
	return key, nil
}
