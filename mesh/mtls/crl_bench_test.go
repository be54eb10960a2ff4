package mtls_test

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// BenchmarkRevocation loads a list of 100,000 certificates, and checks a peer that isn't among them.
func BenchmarkRevocation(b *testing.B) {
	ca := testca.New(b, "cluster.local")
	peer := ca.Credential(ca.Identity("shop", "cart"))
	revoked := make([]*x509.Certificate, 100_000)
	for i := range revoked {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			b.Fatal(err)
		}
		revoked[i] = &x509.Certificate{SerialNumber: serial}
	}
	path := filepath.Join(b.TempDir(), "crl")
	if err := os.WriteFile(path, []byte(ca.Revoke(time.Now().Add(time.Hour), revoked...)), 0o600); err != nil {
		b.Fatal(err)
	}
	r := mtls.NewRevocations(path)
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Load(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		chain := []*x509.Certificate{peer.Certificate.Leaf}
		b.ReportAllocs()
		for b.Loop() {
			if err := r.Check(chain); err != nil {
				b.Fatal(err)
			}
		}
	})
}
