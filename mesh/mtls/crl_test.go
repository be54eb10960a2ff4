package mtls_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// revocations makes a file with the text and loads it.
func revocations(t *testing.T, text string) (*mtls.Revocations, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "crl")
	rewrite(t, path, text)
	r := mtls.NewRevocations(path)
	if _, err := r.Load(); err != nil {
		t.Fatal(err)
	}
	return r, path
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func der(t *testing.T, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	return string(block.Bytes)
}

// chain is what a peer with the credential sends.
func chain(t *testing.T, c *mtls.Credential) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for _, raw := range c.Certificate.Certificate {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	return certs
}

func TestRevokedPeersAreRefusedByBothSides(t *testing.T) {
	ca, other := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	good := ca.Credential(ca.Identity("shop", "good"))
	peer := ca.Issue(testca.Spec{Identity: ca.Identity("shop", "cart"), Intermediates: 1})
	certs := chain(t, peer)
	for _, test := range []struct {
		name, lists string
		refused     bool
	}{
		{"nobody is revoked", ca.Revoke(later), false},
		{"somebody else is", ca.Revoke(later, good.Certificate.Leaf), false},
		{"the authority between is", ca.Revoke(later, certs[1]), true},
		{"by the second list of the file", other.Revoke(later) + ca.Revoke(later, certs[1]), true},
		{"by an outdated list", ca.Revoke(before, certs[1]), true},
		{"in DER form", der(t, ca.Revoke(later, certs[1])), true},
		{"another authority lists the same number", other.Revoke(later, certs[1]), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var counted []*mtls.RevokedError
			r, _ := revocations(t, test.lists)
			policy := mtls.Policy{Revocations: r, OnRevoked: func(e *mtls.RevokedError) { counted = append(counted, e) }}
			inbound, _ := handshake(t, policy.ServerConfig(good), mtls.Policy{}.ClientConfig(peer, []identity.Workload{good.Identity}))
			_, outbound := handshake(t, mtls.Policy{}.ServerConfig(peer), policy.ClientConfig(good, []identity.Workload{peer.Identity}))
			for side, err := range map[string]error{"inbound": inbound.err, "outbound": outbound.err} {
				var revoked *mtls.RevokedError
				if errors.As(err, &revoked) != test.refused || (!test.refused && err != nil) {
					t.Errorf("%s: %v, want refused: %v", side, err, test.refused)
				}
			}
			if test.refused && (len(counted) != 2 || !counted[0].Client || counted[1].Client) {
				t.Errorf("told of %v, want one client and one server", counted)
			}
		})
	}
}

func TestConnectedPeersAreCheckedAgainAfterAChange(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own, peer := ca.Credential(ca.Identity("shop", "own")), ca.Credential(ca.Identity("shop", "cart"))
	later := time.Now().Add(time.Hour)
	r, path := revocations(t, ca.Revoke(later))
	state, _ := handshake(t, mtls.Policy{Revocations: r}.ServerConfig(own), mtls.Policy{}.ClientConfig(peer, []identity.Workload{own.Identity}))
	if state.err != nil {
		t.Fatal(state.err)
	}
	kept := state.state.PeerCertificates
	rewrite(t, path, ca.Revoke(later, peer.Certificate.Leaf))
	if _, err := r.Load(); err != nil {
		t.Fatal(err)
	}
	revoked := r.Check(kept)
	if !errors.As(revoked, new(*mtls.RevokedError)) {
		t.Fatalf("the peer is still good: %v", revoked)
	}
	for _, word := range []string{"spiffe://cluster.local/ns/shop/sa/cart", peer.Certificate.Leaf.SerialNumber.String(), "testca"} {
		if !strings.Contains(revoked.Error(), word) {
			t.Errorf("error %q doesn't say %q", revoked, word)
		}
	}
}

// An old and a new root often have one name; each one's list counts for its own certificates.
func TestListsOfRootsOfOneNameAreKeptApart(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	before := ca.Credential(ca.Identity("shop", "cart"))
	r, _ := revocations(t, ca.Revoke(time.Now().Add(time.Hour), before.Certificate.Leaf))
	ca.Rotate()
	own := ca.Credential(ca.Identity("shop", "own"))
	mtls.Policy{Revocations: r}.ServerConfig(own)
	if r.Check(chain(t, before)) == nil {
		t.Error("the retired root's list doesn't count any more, though the root is trusted")
	}
	imitation := *before.Certificate.Leaf
	imitation.Signature = own.Certificate.Leaf.Signature
	if revoked := r.Check([]*x509.Certificate{&imitation}); revoked != nil {
		t.Errorf("a certificate that the list's issuer never signed: %v", revoked)
	}
}

func TestBrokenFilesKeepTheLastGoodLists(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own, peer := ca.Credential(ca.Identity("shop", "own")), ca.Credential(ca.Identity("shop", "cart"))
	good := ca.Revoke(time.Now().Add(time.Hour), peer.Certificate.Leaf)
	r, path := revocations(t, good)
	mtls.Policy{Revocations: r}.ServerConfig(own)
	for name, test := range map[string]struct{ text, want string }{
		"empty":             {"\n", "is empty"},
		"noise":             {"hello", "neither PEM nor DER"},
		"damaged PEM":       {good[:len(good)/2], "cut off"},
		"damaged second":    {good + good[:len(good)/2], "cut off"},
		"a certificate":     {peer.ChainPEM[0], `PEM block "CERTIFICATE"`},
		"noise in PEM form": {"-----BEGIN X509 CRL-----\naGVsbG8=\n-----END X509 CRL-----\n", "list 1: neither PEM nor DER"},
		"too many":          {strings.Repeat(ca.Revoke(time.Now()), 1001), "more than 1000 lists"},
		"too long":          {strings.Repeat("x", 8<<20+1), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			rewrite(t, path, test.text)
			if _, err := r.Load(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one with %q and the path", err, test.want)
			}
			if r.Check(chain(t, peer)) == nil {
				t.Error("the last good list is no longer in force")
			}
		})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if r.Check(chain(t, peer)) == nil {
		t.Error("without the file the last good list is no longer in force")
	}
}

func TestSummaryNamesOutdatedLists(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	leaf := ca.Credential(ca.Identity("shop", "cart")).Certificate.Leaf
	r, _ := revocations(t, ca.Revoke(time.Now().Add(-time.Hour), leaf)+ca.Revoke(time.Now().Add(time.Hour)))
	got, err := r.Load()
	if err != nil || got.Lists != 2 || got.Revoked != 1 || len(got.Outdated) != 1 || !strings.Contains(got.Outdated[0], "testca") {
		t.Errorf("summary %+v, %v", got, err)
	}
}

func TestNoListsMeanNoRevocation(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own := ca.Credential(ca.Identity("shop", "own"))
	var none *mtls.Revocations
	if none.Check(chain(t, own)) != nil {
		t.Error("the nil Revocations knows something")
	}
	if mtls.NewRevocations("/none").Check(chain(t, own)) != nil {
		t.Error("one that was never loaded knows something")
	}
}
