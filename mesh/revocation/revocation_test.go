package revocation_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/revocation"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

func TestListsAreFollowedAndABrokenOneChangesNothing(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "client"))
	leaf, err := x509.ParseCertificate(credential.Certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crl.pem")
	policy := revocation.Policy(settings.Security{CRL: path}, telemetry.NewCRL(prometheus.NewRegistry()))
	policy.ServerConfig(credential) // whose roots say whom lists are believed of
	ctx, cancel := context.WithCancel(t.Context())
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	cut := make(chan struct{}, 10)
	log := slog.New(slog.DiscardHandler)
	if err := revocation.Follow(ctx, &background, path, policy.Revocations, func() { cut <- struct{}{} }, log); err != nil {
		t.Fatalf("a list that is missing at first: %v", err)
	}
	revoked := func() bool {
		return errors.As(policy.Revocations.Check([]*x509.Certificate{leaf}), new(*mtls.RevokedError))
	}
	if revoked() {
		t.Error("revoked by no list")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(ca.Revoke(time.Now().Add(time.Hour), leaf))
	select {
	case <-cut:
	case <-time.After(time.Minute):
		t.Fatal("the list goes unnoticed")
	}
	if !revoked() {
		t.Error("not revoked by the list that names it")
	}
	write("broken")
	if err := revocation.Follow(ctx, &background, path, mtls.NewRevocations(path), func() {}, log); err == nil || !strings.Contains(err.Error(), "CRL_PATH") {
		t.Errorf("it begins with a broken list: %v", err)
	}
	if !revoked() {
		t.Error("a broken list lets it in")
	}
}

func TestWithoutAPathNothingIsFollowed(t *testing.T) {
	policy := revocation.Policy(settings.Security{TrustDomains: []string{"a"}, PostQuantum: true}, nil)
	if policy.Revocations != nil || !policy.PostQuantum || len(policy.TrustDomains) != 1 {
		t.Errorf("%+v", policy)
	}
	if err := revocation.Follow(t.Context(), nil, "", nil, nil, nil); err != nil {
		t.Error(err)
	}
}
