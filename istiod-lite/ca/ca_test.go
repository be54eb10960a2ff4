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
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestSeveralThatStartAtOnceShareOneRoot(t *testing.T) {
	state := filepath.Join(t.TempDir(), "ca")
	authorities := make([]*Authority, 8)
	var group sync.WaitGroup
	for i := range authorities {
		group.Go(func() {
			var err error
			if authorities[i], err = Open(state, "", "cluster.local"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	published, err := os.ReadFile(filepath.Join(state, "root-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authorities {
		if string(a.RootsPEM()) != string(published) {
			t.Error("two roots")
		}
	}
	again, err := Open(state, "", "cluster.local")
	if err != nil || string(again.RootsPEM()) != string(published) {
		t.Errorf("another root after a restart: %v", err)
	}
	info, err := os.Stat(filepath.Join(state, "authority", "ca-key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(state, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if life := time.Until(authorities[0].signer.NotAfter); life < 3649*24*time.Hour {
		t.Errorf("root lives %s", life)
	}
}

func TestADamagedAuthorityIsNotReplaced(t *testing.T) {
	state := t.TempDir()
	if _, err := Open(state, "", "cluster.local"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "authority", "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(state, "", "cluster.local"); err == nil || !strings.Contains(err.Error(), "ca-key.pem") {
		t.Error(err)
	}
}

// pair is a certificate with its key, as somebody else's tools made it.
type pair struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func issue(t *testing.T, parent *pair, key crypto.Signer, change func(*x509.Certificate)) pair {
	t.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	template.SerialNumber, _ = newSerial()
	template.Subject.CommonName = template.SerialNumber.String()
	if change != nil {
		change(template)
	}
	issuer := pair{template, key}
	if parent != nil {
		issuer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.certificate, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{certificate, key}
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func put(t *testing.T, dir, name string, blocks ...[]byte) {
	t.Helper()
	var data []byte
	for _, block := range blocks {
		data = append(data, block...)
	}
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("PRIVATE KEY", der)
}

func sec1(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("EC PRIVATE KEY", der)
}

func TestPluggedAuthorities(t *testing.T) {
	root := issue(t, nil, rsaKey(t, 2048), nil)
	middle := issue(t, &root, ecKey(t), nil)
	rsaSigner, ecSigner := rsaKey(t, 2048), ecKey(t)
	byRSA, byEC := issue(t, &root, rsaSigner, nil), issue(t, &middle, ecSigner, nil)
	certificate := func(p pair) []byte { return encodeCertificate(p.certificate.Raw) }
	for name, c := range map[string]struct {
		files func(dir string)
		chain int // elements beside leaf and roots
	}{
		"below a root, RSA, PKCS 1": {func(dir string) {
			put(t, dir, "ca-cert.pem", certificate(byRSA))
			put(t, dir, "ca-key.pem", pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaSigner)))
			put(t, dir, "cert-chain.pem", certificate(byRSA), certificate(root))
			put(t, dir, "root-cert.pem", certificate(root))
		}, 1},
		"two below, ECDSA, SEC 1": {func(dir string) {
			put(t, dir, "ca-cert.pem", certificate(byEC))
			put(t, dir, "ca-key.pem", sec1(t, ecSigner))
			put(t, dir, "cert-chain.pem", certificate(byEC), certificate(middle))
			put(t, dir, "root-cert.pem", certificate(root), certificate(issue(t, nil, ecKey(t), nil)))
		}, 2},
		"a secret of TLS, PKCS 8": {func(dir string) {
			put(t, dir, "tls.crt", certificate(byEC), certificate(middle))
			put(t, dir, "tls.key", pkcs8(t, ecSigner))
			put(t, dir, "ca.crt", certificate(root))
		}, 2},
		"a root itself": {func(dir string) {
			put(t, dir, "tls.crt", certificate(root))
			put(t, dir, "tls.key", pkcs8(t, root.key))
			put(t, dir, "ca.crt", certificate(root))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			state, plugged := t.TempDir(), t.TempDir()
			c.files(plugged)
			a, err := Open(state, plugged, "cluster.local")
			if err != nil {
				t.Fatal(err)
			}
			id, err := identity.New("cluster.local", "demo", "app")
			if err != nil {
				t.Fatal(err)
			}
			chain, err := a.Issue(id, ecKey(t).Public(), 365*24*time.Hour)
			if err != nil || len(chain) != c.chain+2 {
				t.Fatalf("%d elements, %v", len(chain), err)
			}
			leaf := verify(t, chain)
			if !leaf.NotAfter.Equal(a.signer.NotAfter) {
				t.Errorf("outlives the signer: %s, %s", leaf.NotAfter, a.signer.NotAfter)
			}
			published, err := os.ReadFile(filepath.Join(state, "root-cert.pem"))
			if err != nil || string(published) != chain[len(chain)-1] {
				t.Errorf("published other roots: %v", err)
			}
			if _, err := os.Stat(filepath.Join(state, "authority")); err == nil {
				t.Error("made an authority of its own")
			}
		})
	}
}

// verify checks a chain as a client does: by its last element.
func verify(t *testing.T, chain []string) *x509.Certificate {
	t.Helper()
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(chain[len(chain)-1]))
	for _, text := range chain[1 : len(chain)-1] {
		middle.AppendCertsFromPEM([]byte(text))
	}
	block, _ := pem.Decode([]byte(chain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle}); err != nil {
		t.Error(err)
	}
	return leaf
}

func TestPluggedAuthoritiesThatDoNotFitAreRefused(t *testing.T) {
	root := issue(t, nil, ecKey(t), nil)
	signer := issue(t, &root, ecKey(t), nil)
	expired := issue(t, &root, ecKey(t), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	leaf := issue(t, &root, ecKey(t), func(c *x509.Certificate) { c.IsCA = false })
	certificate := func(p pair) []byte { return encodeCertificate(p.certificate.Raw) }
	for want, files := range map[string][3][]byte{
		"the key is not that of the certificate":              {certificate(signer), pkcs8(t, ecKey(t)), certificate(root)},
		"the certificate does not lead to the root":           {certificate(signer), pkcs8(t, signer.key), certificate(issue(t, nil, ecKey(t), nil))},
		"certificate has expired":                             {certificate(expired), pkcs8(t, expired.key), certificate(root)},
		"the certificate is not that of an authority":         {certificate(leaf), pkcs8(t, leaf.key), certificate(root)},
		"tls.key: no key in PEM":                              {certificate(signer), []byte("x"), certificate(root)},
		"tls.key: not a private key in PKCS 8, PKCS 1 or SEC": {certificate(signer), pemOf("PRIVATE KEY", []byte("x")), certificate(root)},
		"ca.crt: no certificate in PEM":                       {certificate(signer), pkcs8(t, signer.key), nil},
		"tls.crt: x509":                                       {pemOf("CERTIFICATE", []byte("x")), pkcs8(t, signer.key), certificate(root)},
	} {
		plugged := t.TempDir()
		put(t, plugged, "tls.crt", files[0])
		put(t, plugged, "tls.key", files[1])
		put(t, plugged, "ca.crt", files[2])
		if _, err := Open(t.TempDir(), plugged, "cluster.local"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, have %v", want, err)
		}
	}
}

func TestHalfOfAPluggedAuthorityIsRefused(t *testing.T) {
	for file, want := range map[string]string{
		"root-cert.pem": "lacks [ca-cert.pem ca-key.pem cert-chain.pem]", "tls.key": "lacks [tls.crt ca.crt]",
	} {
		plugged := t.TempDir()
		put(t, plugged, file, []byte("x"))
		if _, err := Open(t.TempDir(), plugged, "cluster.local"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
	for name, folder := range map[string]string{"an empty folder": t.TempDir(), "no folder": filepath.Join(t.TempDir(), "none")} {
		if _, err := Open(t.TempDir(), folder, "cluster.local"); err == nil || !strings.Contains(err.Error(), "no authority is plugged in at "+folder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysOfRequests(t *testing.T) {
	request := func(key crypto.Signer) string {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pemOf("CERTIFICATE REQUEST", der))
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": ecKey(t), "P-384": p384, "RSA": rsaKey(t, 2048)} {
		if public, err := ParseCSR(request(key)); err != nil || !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	weak, err := os.ReadFile("testdata/rsa1024.csr")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCSR(string(weak)); err == nil || !strings.Contains(err.Error(), "RSA key of 1024 bits") {
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
		if key, err := ParseCSR(text); (key == nil) == (err == nil) {
			t.Errorf("key %v, error %v", key, err)
		}
	})
}

func TestTheControlPlanesOwnCertificateIsRenewedInTime(t *testing.T) {
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := Open(state, "", "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewServing(a, []string{"istiod.istio-system.svc"})
		if err != nil {
			t.Fatal(err)
		}
		get := func() *x509.Certificate {
			certificate, err := s.Config().GetCertificate(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(a.RootsPEM())
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
		// When the authority expires nothing new is signed.
		time.Sleep(3651 * 24 * time.Hour)
		id, err := identity.New("cluster.local", "demo", "app")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Issue(id, ecKey(t).Public(), time.Hour); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("an expired authority: %v", err)
		}
	})
}
