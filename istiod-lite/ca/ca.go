// Package ca is the certificate authority of the mesh: it proves callers by their tokens, decides which identity each may
// have a certificate for, and signs.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	// DefaultTTL is the life of a certificate whose request names none.
	DefaultTTL = 24 * time.Hour
	// MaxTTL is the longest life that may be asked for.
	MaxTTL = 90 * 24 * time.Hour
	// backdate is by how much other clocks may be behind ours.
	backdate = 2 * time.Minute
)

// Authority is a key that signs, with the chain that leads from it to the roots. It is immutable.
type Authority struct {
	key     crypto.Signer
	signer  *x509.Certificate
	chain   []string // PEM, one certificate each: the signer and what is above it, without the root
	roots   []byte   // PEM, all of them
	rootSet []*x509.Certificate
}

// RootsPEM returns the certificates that clients trust.
func (a *Authority) RootsPEM() []byte { return a.roots }

// newAuthority checks that the parts belong together: the key is the signer's, and the signer leads to a root.
func newAuthority(key crypto.Signer, chain []*x509.Certificate, roots []*x509.Certificate, now time.Time) (*Authority, error) {
	signer := chain[0]
	public, ok := signer.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the key is not that of the certificate")
	}
	if !signer.IsCA {
		return nil, errors.New("the certificate is not that of an authority (CA:TRUE is missing)")
	}
	pool, middle := x509.NewCertPool(), x509.NewCertPool()
	a := &Authority{key: key, signer: signer, rootSet: roots}
	for _, root := range roots {
		pool.AddCert(root)
		a.roots = append(a.roots, encodeCertificate(root.Raw)...)
	}
	for _, certificate := range chain {
		middle.AddCert(certificate)
		// The roots follow as a bundle of their own.
		if !contains(roots, certificate) {
			a.chain = append(a.chain, string(encodeCertificate(certificate.Raw)))
		}
	}
	_, err := signer.Verify(x509.VerifyOptions{Roots: pool, Intermediates: middle, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("the certificate does not lead to the root: %w", err)
	}
	return a, nil
}

func contains(list []*x509.Certificate, one *x509.Certificate) bool {
	for _, each := range list {
		if each.Equal(one) {
			return true
		}
	}
	return false
}

// sign makes a certificate for a key. What the certificate says comes from the template alone. It never outlives the
// signer.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	now := time.Now()
	if now.After(a.signer.NotAfter) {
		return nil, fmt.Errorf("the authority's certificate expired at %s: replace it", a.signer.NotAfter.Format(time.RFC3339))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(a.signer.NotAfter) {
		template.NotAfter = a.signer.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.BasicConstraintsValid = true
	return x509.CreateCertificate(rand.Reader, template, a.signer, public, a.key)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial, nil
}

// Issue signs a certificate for a workload's key: leaf first, one certificate per element, the roots last as one bundle.
func (a *Authority) Issue(id identity.Workload, public crypto.PublicKey, ttl time.Duration) ([]string, error) {
	leaf, err := a.sign(&x509.Certificate{
		URIs:        uris(id),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public, ttl)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	chain := append([]string{string(encodeCertificate(leaf))}, a.chain...)
	return append(chain, string(a.roots)), nil
}

// maxCSR bounds a request, in bytes of PEM.
const maxCSR = 16 << 10

// ParseCSR returns the key of a request that proves to have its private half. All else that the request says is ignored:
// who the caller is was proven otherwise.
func ParseCSR(text string) (crypto.PublicKey, error) {
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

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// selfSigned makes a new root.
func selfSigned(organization string, now time.Time, key crypto.Signer) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{organization}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}
