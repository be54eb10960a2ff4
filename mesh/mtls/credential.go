package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	// maxChainBytes and maxCertificates bound a certificate authority's answer. Root bundles of several meshes have tens
	// of certificates of 1 to 2 KiB.
	maxChainBytes   = 1 << 20
	maxCertificates = 200
)

// Credential is an identity with what proves it (key and chain) and what others are verified against (roots). It is
// immutable.
type Credential struct {
	Identity identity.Workload
	// Certificate has its Leaf set and sends the leaf and the intermediates, not the roots.
	Certificate tls.Certificate
	Roots       *x509.CertPool
	// ChainPEM is the leaf and the intermediates, one certificate each; RootsPEM the root bundle.
	ChainPEM []string
	RootsPEM string

	roots               []*x509.Certificate // what Roots holds
	notBefore, notAfter time.Time
}

// NotBefore returns when the leaf and all intermediates have become valid.
func (c *Credential) NotBefore() time.Time { return c.notBefore }

// NotAfter returns when the first of the leaf and the intermediates expires.
func (c *Credential) NotAfter() time.Time { return c.notAfter }

// NewCredential takes a key and a certificate authority's answer: PEM texts, the leaf first, then any intermediates, the
// root bundle last. The bundle may hold several certificates. It refuses an answer that could not work: another key's
// leaf, a leaf without identity, or one that doesn't lead to the roots for both sides of a tunnel. It accepts one that
// has expired or is not valid yet, since only the user knows the time it is for.
func NewCredential(key crypto.Signer, chainPEM []string) (*Credential, error) {
	if len(chainPEM) < 2 {
		return nil, fmt.Errorf("certificate chain has %d elements, want a leaf and a root bundle at least", len(chainPEM))
	}
	chain, roots, err := parseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("certificate is for another key than the one it was asked for")
	}
	id, err := identity.FromCertificate(leaf)
	if err != nil {
		return nil, err
	}
	if leaf.IsCA {
		return nil, fmt.Errorf("certificate of %s is a signing certificate, not a workload's", id)
	}
	c := &Credential{
		Identity:    id,
		Certificate: tls.Certificate{PrivateKey: key, Leaf: leaf},
		Roots:       x509.NewCertPool(),
		roots:       roots,
	}
	for _, cert := range chain {
		c.Certificate.Certificate = append(c.Certificate.Certificate, cert.Raw)
		c.ChainPEM = append(c.ChainPEM, encode(cert))
		c.narrow(cert)
	}
	for _, cert := range roots {
		c.Roots.AddCert(cert)
		c.RootsPEM += encode(cert)
	}
	if err := c.verify(chain[1:]); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Credential) narrow(cert *x509.Certificate) {
	if cert.NotBefore.After(c.notBefore) {
		c.notBefore = cert.NotBefore
	}
	if c.notAfter.IsZero() || cert.NotAfter.Before(c.notAfter) {
		c.notAfter = cert.NotAfter
	}
}

// verify checks that peers with the same roots will accept the credential, if the time is right.
func (c *Credential) verify(intermediates []*x509.Certificate) error {
	pool := x509.NewCertPool()
	for _, cert := range intermediates {
		pool.AddCert(cert)
	}
	at := time.Now()
	if at.After(c.notAfter) {
		at = c.notAfter
	}
	if at.Before(c.notBefore) {
		at = c.notBefore
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := c.Certificate.Leaf.Verify(x509.VerifyOptions{
			Roots: c.Roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at,
		})
		if err != nil {
			return fmt.Errorf("certificate of %s does not lead to the roots beside it: %w", c.Identity, err)
		}
	}
	return nil
}

// parseChain reads the elements but the last as the chain, the last as the roots.
func parseChain(chainPEM []string) (chain, roots []*x509.Certificate, err error) {
	size, count := 0, 0
	for i, text := range chainPEM {
		if size += len(text); size > maxChainBytes {
			return nil, nil, fmt.Errorf("certificate chain is longer than %d bytes", maxChainBytes)
		}
		certs, err := parsePEM(text)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate chain, element %d of %d: %w", i+1, len(chainPEM), err)
		}
		if count += len(certs); count > maxCertificates {
			return nil, nil, fmt.Errorf("certificate chain has more than %d certificates", maxCertificates)
		}
		if i == len(chainPEM)-1 {
			roots = certs
		} else {
			chain = append(chain, certs...)
		}
	}
	return chain, roots, nil
}

// parsePEM reads one or more certificates. Text between the blocks is allowed, blocks of another type are not.
func parsePEM(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q, want CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return certs, nil
}

func encode(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}
