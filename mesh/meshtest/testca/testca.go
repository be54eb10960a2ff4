// Package testca is a certificate authority for tests: it signs for any identity, and can do everything wrong on request.
package testca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// CA signs certificates of one trust domain. Its methods may be called from any goroutine.
type CA struct {
	tb          testing.TB
	trustDomain string

	mu     sync.Mutex
	signer authority
	roots  string // PEM bundle, newest first
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Spec says what the certificate of Issue is like. Only Identity or URIs is needed.
type Spec struct {
	Identity            identity.Workload
	URIs                []*url.URL         // instead of the identity, when set; they may be anything
	NotBefore, NotAfter time.Time          // zero means 2 minutes ago and in 24 hours
	ExtKeyUsage         []x509.ExtKeyUsage // empty means client and server
	Intermediates       int                // signing certificates between the root and the leaf
	IsCA                bool
}

// New makes an authority with one self-signed root, valid at any time a test could think of.
func New(tb testing.TB, trustDomain string) *CA {
	tb.Helper()
	ca := &CA{tb: tb, trustDomain: trustDomain}
	ca.Rotate()
	return ca
}

// Identity makes an identity of the authority's trust domain.
func (ca *CA) Identity(namespace, serviceAccount string) identity.Workload {
	ca.tb.Helper()
	id, err := identity.New(ca.trustDomain, namespace, serviceAccount)
	ca.must(err)
	return id
}

func (ca *CA) must(err error) {
	ca.tb.Helper()
	if err != nil {
		ca.tb.Fatal(err)
	}
}

// RootsPEM returns the root bundle that clients trust now.
func (ca *CA) RootsPEM() string {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.roots
}

// Rotate makes a new root that signs from now on. The older ones stay in the bundle until Retire.
func (ca *CA) Rotate() {
	ca.tb.Helper()
	root, err := issue(signingTemplate("root"), authority{}, nil)
	ca.must(err)
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.signer, ca.roots = root, encode(root.cert)+ca.roots
}

// Retire takes all roots but the signing one out of the bundle.
func (ca *CA) Retire() {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.roots = encode(ca.signer.cert)
}

// Credential makes a key and a certificate for it, valid for 24 hours.
func (ca *CA) Credential(id identity.Workload) *mtls.Credential {
	ca.tb.Helper()
	return ca.Issue(Spec{Identity: id})
}

// Issue makes a key and a certificate for it as spec says, however wrong that is.
func (ca *CA) Issue(spec Spec) *mtls.Credential {
	ca.tb.Helper()
	key, chain, err := ca.sign(spec, nil)
	ca.must(err)
	credential, err := mtls.NewCredential(key, chain)
	if err == nil {
		return credential
	}
	// The product would not use such a certificate, but a test may show it to the product.
	credential = &mtls.Credential{Identity: spec.Identity, Roots: x509.NewCertPool(), RootsPEM: chain[len(chain)-1]}
	credential.Roots.AppendCertsFromPEM([]byte(credential.RootsPEM))
	credential.Certificate.PrivateKey, credential.ChainPEM = key, chain[:len(chain)-1]
	for _, text := range credential.ChainPEM {
		block, _ := pem.Decode([]byte(text))
		credential.Certificate.Certificate = append(credential.Certificate.Certificate, block.Bytes)
	}
	return credential
}

// Revoke returns the signing root's revocation list of these certificates, in PEM form. It promises the next one at the
// given time.
func (ca *CA) Revoke(next time.Time, certs ...*x509.Certificate) string {
	ca.tb.Helper()
	ca.mu.Lock()
	signer := ca.signer
	ca.mu.Unlock()
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Unix(0, 0), NextUpdate: next}
	for _, cert := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, signer.cert, signer.key)
	ca.must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// Sign signs a request for id as the product's authorities do: leaf first, root bundle last. The names in the request
// play no part.
func (ca *CA) Sign(_ context.Context, id identity.Workload, csrPEM string, ttl time.Duration) ([]string, error) {
	block, _ := pem.Decode([]byte(csrPEM))
	if block == nil {
		return nil, errors.New("no certificate request in PEM form")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return nil, err
	}
	_, chain, err := ca.sign(Spec{Identity: id, NotAfter: time.Now().Add(ttl)}, request.PublicKey)
	return chain, err
}

// sign certifies the public key, or a new one if it is nil.
func (ca *CA) sign(spec Spec, public crypto.PublicKey) (*ecdsa.PrivateKey, []string, error) {
	ca.mu.Lock()
	signer, roots := ca.signer, ca.roots
	ca.mu.Unlock()
	chain := []string{roots}
	for range spec.Intermediates {
		next, err := issue(signingTemplate("intermediate"), signer, nil)
		if err != nil {
			return nil, nil, err
		}
		signer, chain = next, append([]string{encode(next.cert)}, chain...)
	}
	leaf, err := issue(leafTemplate(spec), signer, public)
	if err != nil {
		return nil, nil, err
	}
	return leaf.key, append([]string{encode(leaf.cert)}, chain...), nil
}

func leafTemplate(spec Spec) *x509.Certificate {
	if spec.URIs == nil {
		spec.URIs = []*url.URL{spec.Identity.URI()}
	}
	if spec.ExtKeyUsage == nil {
		spec.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return &x509.Certificate{
		NotBefore: cmp.Or(spec.NotBefore, time.Now().Add(-2*time.Minute)),
		NotAfter:  cmp.Or(spec.NotAfter, time.Now().Add(24*time.Hour)),
		URIs:      spec.URIs, ExtKeyUsage: spec.ExtKeyUsage,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true, IsCA: spec.IsCA,
	}
}

func signingTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name, Organization: []string{"testca"}, SerialNumber: rand.Text()},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// issue signs template: with its own new key if there is no signer, and for a new key if public is nil.
func issue(template *x509.Certificate, signer authority, public crypto.PublicKey) (made authority, err error) {
	if public == nil {
		if made.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return made, err
		}
		public = made.key.Public()
	}
	if signer.cert == nil {
		signer = authority{cert: template, key: made.key}
	}
	template.SerialNumber = new(big.Int).SetBytes([]byte(rand.Text()[:16]))
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, public, signer.key)
	if err == nil {
		made.cert, err = x509.ParseCertificate(der)
	}
	return made, err
}

func encode(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}
