package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// link is one certificate of a chain with its key.
type link struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a link below an issuer, or a root. Its serial number is given, its name as well; a leaf has an identity.
func (issuer *link) sign(t *testing.T, serial int64, name, uri string) *link {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: uri == "", KeyUsage: x509.KeyUsageCertSign, // no cRLSign, as in Istio's own roots
	}
	if uri != "" {
		parsed, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs, template.KeyUsage = []*url.URL{parsed}, x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if issuer == nil {
		issuer = &link{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &link{cert, key}
}

func (issuer *link) revoke(t *testing.T, serials ...int64) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Now()})
	}
	signer := *issuer.cert
	signer.KeyUsage = x509.KeyUsageCRLSign // CreateRevocationList insists on it
	signer.SubjectKeyId = []byte{1}
	der, err := x509.CreateRevocationList(rand.Reader, list, &signer, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func (l *link) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert.Raw}))
}

// Each certificate of a chain counts by its own issuer's list: the leaf by that of the authority between, which peers send,
// that one by the root's, which they don't.
func TestEveryLinkOfAChainIsChecked(t *testing.T) {
	var none *link
	root, otherRoot := none.sign(t, 1, "root", ""), none.sign(t, 1, "root", "")
	between := root.sign(t, 2, "between", "")
	leaf := between.sign(t, 3, "", "spiffe://cluster.local/ns/shop/sa/cart")
	credential, err := mtls.NewCredential(leaf.key, []string{leaf.pem(), between.pem(), root.pem()})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, lists string
		revoked     bool
	}{
		{"the leaf, by the authority between", between.revoke(t, 3), true},
		{"the authority between, by the root", root.revoke(t, 2), true},
		{"the leaf's number, by the root", root.revoke(t, 3), false},
		{"by another root of the same name", otherRoot.revoke(t, 2), false},
		{"others", between.revoke(t, 4, 5) + root.revoke(t, 6), false},
		{"a list of nothing for each, then one of the leaf", between.revoke(t) + root.revoke(t) + between.revoke(t, 3), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := revocations(t, test.lists)
			mtls.Policy{Revocations: r}.ServerConfig(credential)
			if err := r.Check(chain(t, credential)); (err != nil) != test.revoked {
				t.Errorf("revoked: %v, want %v", err, test.revoked)
			}
		})
	}
}
