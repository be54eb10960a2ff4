package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestKeysOfRequests(t *testing.T) {
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": ecKey(t), "P-384": p384, "RSA": rsa2048} {
		if public, err := parseCSR(request(t, key)); err != nil || !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	weak, err := os.ReadFile("testdata/rsa1024.csr")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseCSR(string(weak)); err == nil || !strings.Contains(err.Error(), "RSA key of 1024 bits") {
		t.Errorf("a weak key: %v", err)
	}
}

// FuzzParseCSR: whatever a caller sends, it is a key or an error.
func FuzzParseCSR(f *testing.F) {
	weak, err := os.ReadFile("testdata/rsa1024.csr")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(weak))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := parseCSR(text); (key == nil) == (err == nil) {
			t.Errorf("key %v, error %v", key, err)
		}
	})
}

// newRoot makes a self-signed authority that lives for so many hours.
func newRoot(t testing.TB, hours int) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-Backdate), NotAfter: time.Now().Add(time.Duration(hours) * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	template.Subject.CommonName = "root"
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Material{Key: key, Chain: []*x509.Certificate{root}, Roots: []*x509.Certificate{root}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestTheControlPlanesOwnCertificateIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := NewLive(newRoot(t, 100*24))
		s, err := NewServing(live, []string{"istiod.istio-system.svc"})
		if err != nil {
			t.Fatal(err)
		}
		get := func() *x509.Certificate {
			t.Helper()
			certificate, err := s.Config().GetCertificate(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(live.RootsPEM())
			if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "istiod.istio-system.svc", CurrentTime: time.Now()}); err != nil {
				t.Error(err)
			}
			return certificate.Leaf
		}
		first := get()
		time.Sleep(11 * time.Hour)
		if !get().Equal(first) {
			t.Error("renewed before half of its life")
		}
		time.Sleep(2 * time.Hour)
		if get().Equal(first) {
			t.Error("not renewed after half of its life")
		}
		second := get()
		live.Set(newRoot(t, 200*24))
		if get().Equal(second) {
			t.Error("not renewed when another authority signs")
		}
		// When the authority expires nothing new is signed.
		time.Sleep(201 * 24 * time.Hour)
		id, err := identity.New("cluster.local", "demo", "app")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := live.Authority().Issue(id, ecKey(t).Public(), time.Hour); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("an expired authority: %v", err)
		}
	})
}

// BenchmarkIssue is what a certificate costs without the network: read the request, check its signature, sign.
func BenchmarkIssue(b *testing.B) {
	a := newRoot(b, 1000)
	text := request(b, ecKey(b))
	id, err := identity.New("cluster.local", "demo", "app")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		public, err := parseCSR(text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Issue(id, public, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}
