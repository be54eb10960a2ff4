// Package ca is the certificate authority of the mesh: it proves callers by their tokens, decides which identity each may
// have a certificate for, and signs.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	// DefaultTTL is the life of a certificate whose request names none.
	DefaultTTL = 24 * time.Hour
	// MaxTTL is the longest life that may be asked for.
	MaxTTL = 90 * 24 * time.Hour
	// Backdate is by how much other clocks may be behind ours.
	Backdate = 2 * time.Minute
)

// Material is what an authority is made of.
type Material struct {
	Key crypto.Signer
	// Chain begins with the key's certificate. Above it come those that lead to the roots.
	Chain []*x509.Certificate
	// Roots are what clients trust.
	Roots []*x509.Certificate
	// Revoked are revocation lists in PEM, or nothing.
	Revoked []byte
}

// Authority is a key that signs, with the chain that leads from it to the roots. It is immutable.
type Authority struct {
	Material
	signer    *x509.Certificate
	chain     []link // the signer and what is above it, without roots
	rootsPEM  string
	rootsPool *x509.CertPool
}

// link is one certificate of a chain.
type link struct {
	pem string
	der []byte
	// until is when a certificate ends that only clients with older roots need, because the signer is a root itself; for
	// all others it is zero.
	until time.Time
}

// RootsPEM returns the certificates that clients trust.
func (a *Authority) RootsPEM() []byte { return []byte(a.rootsPEM) }

// Equal tells whether both sign with the same key and publish the same.
func (a *Authority) Equal(b *Authority) bool {
	same := func(x, y *x509.Certificate) bool { return x.Equal(y) }
	return slices.EqualFunc(a.Chain, b.Chain, same) && slices.EqualFunc(a.Roots, b.Roots, same) && bytes.Equal(a.Revoked, b.Revoked)
}

// New checks that the parts belong together: the key is the signer's, and the signer leads to a root.
func New(m Material) (*Authority, error) {
	if len(m.Chain) == 0 || len(m.Roots) == 0 {
		return nil, errors.New("an authority needs a certificate and a root")
	}
	a := &Authority{Material: m, signer: m.Chain[0], rootsPool: x509.NewCertPool()}
	if public, ok := a.signer.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(m.Key.Public()) {
		return nil, errors.New("the key is not that of the certificate")
	}
	if !a.signer.IsCA {
		return nil, errors.New("the certificate is not that of an authority (CA:TRUE is missing)")
	}
	for _, root := range m.Roots {
		a.rootsPool.AddCert(root)
		a.rootsPEM += string(EncodeCertificate(root))
	}
	for i, certificate := range m.Chain {
		// The roots follow as a bundle of their own.
		if contains(m.Roots, certificate) {
			continue
		}
		one := link{pem: string(EncodeCertificate(certificate)), der: certificate.Raw}
		if i > 0 && contains(m.Roots, a.signer) {
			one.until = certificate.NotAfter
		}
		a.chain = append(a.chain, one)
	}
	if err := a.leadsTo(a.rootsPool); err != nil {
		return nil, fmt.Errorf("the certificate does not lead to the root: %w", err)
	}
	return a, nil
}

// leadsTo checks that the signer's certificates are accepted by who trusts the roots. Our clock may be a bit behind that
// of who has just made the signer.
func (a *Authority) leadsTo(roots *x509.CertPool) error {
	middle := x509.NewCertPool()
	for _, certificate := range a.Chain {
		middle.AddCert(certificate)
	}
	now := time.Now()
	if now.Before(a.signer.NotBefore) {
		now = a.signer.NotBefore
	}
	_, err := a.signer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// Follows tells why an authority can't take over from an earlier one without a handshake that fails: clients learn of roots
// one after the other. So some roots must stay, and those that the signer leads to must have been published before.
func (a *Authority) Follows(earlier *Authority) error {
	if !containsAll(a.Roots, earlier.Roots) && !containsAll(earlier.Roots, a.Roots) {
		return errors.New("the roots are others: publish the old and the new ones together first")
	}
	if err := a.leadsTo(earlier.rootsPool); err != nil {
		return fmt.Errorf("the certificate leads to no root that clients already know: first publish its root beside the old ones, with the old certificate: %w", err)
	}
	return nil
}

func contains(list []*x509.Certificate, one *x509.Certificate) bool {
	return slices.ContainsFunc(list, one.Equal)
}

func containsAll(list, part []*x509.Certificate) bool {
	return !slices.ContainsFunc(part, func(one *x509.Certificate) bool { return !contains(list, one) })
}

// sign makes a certificate for a key. What the certificate says comes from the template alone. It never outlives the
// signer.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	now := time.Now()
	if now.After(a.signer.NotAfter) {
		return nil, fmt.Errorf("the authority's certificate expired at %s: replace it", a.signer.NotAfter.Format(time.RFC3339))
	}
	template.NotBefore = now.Add(-Backdate)
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(a.signer.NotAfter) {
		template.NotAfter = a.signer.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.BasicConstraintsValid = true
	return x509.CreateCertificate(rand.Reader, template, a.signer, public, a.Key)
}

// above returns what goes with a certificate that lives until end. A cross-signed certificate that ends earlier is left
// out: whoever reckons a chain to end with its first certificate would find it older than it is.
func (a *Authority) above(end time.Time) []link {
	return slices.DeleteFunc(slices.Clone(a.chain), func(one link) bool { return !one.until.IsZero() && one.until.Before(end) })
}

// Issue signs a certificate for a workload's key: leaf first, one certificate per element, the roots last as one bundle.
func (a *Authority) Issue(id identity.Workload, public crypto.PublicKey, ttl time.Duration) ([]string, error) {
	template := &x509.Certificate{
		URIs:        []*url.URL{id.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := a.sign(template, public, ttl)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	chain := []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}))}
	for _, one := range a.above(template.NotAfter) {
		chain = append(chain, one.pem)
	}
	return append(chain, a.rootsPEM), nil
}

// maxCSR bounds a request, in bytes of PEM.
const maxCSR = 16 << 10

// parseCSR returns the key of a request that proves to have its private half. All else that the request says is ignored:
// who the caller is was proven otherwise.
func parseCSR(text string) (crypto.PublicKey, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("certificate request exceeds %d bytes", maxCSR)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("not a certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its key: %w", err)
	}
	return csr.PublicKey, nil
}

// checkKey refuses keys too weak to trust, and those so big that checking them is work.
func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
			return fmt.Errorf("RSA key of %d bits: want 2048 to 8192", bits)
		}
		return nil
	}
	return fmt.Errorf("key of type %T: want ECDSA, Ed25519 or RSA", key)
}

// EncodeCertificate returns a certificate as PEM.
func EncodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
