package keep

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// RootTTL is the life of a self-signed root, unless something else is asked for.
const RootTTL = 3650 * 24 * time.Hour

// pair is a signing certificate with its key.
type pair struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// newRoot makes a self-signed root. Each has a name of its own, so that nobody takes one for another.
func newRoot(organization string, life time.Duration, now time.Time) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	unique := make([]byte, 8)
	rand.Read(unique) // never fails
	template := caTemplate(pkix.Name{Organization: []string{organization}, CommonName: "mesh root " + hex.EncodeToString(unique)})
	template.NotBefore, template.NotAfter = now.Add(-ca.Backdate), now.Add(life)
	return sign(template, template, key.Public(), key, key)
}

func caTemplate(name pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		Subject: name, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// cross makes a certificate by which who trusts only the old root trusts what the next one signs. It returns nil if the old
// root may not vouch for an authority.
func cross(old, next pair, now time.Time) (*x509.Certificate, error) {
	by := old.certificate
	if !now.Before(by.NotAfter) || by.MaxPathLen == 0 && by.MaxPathLenZero {
		return nil, nil
	}
	template := caTemplate(next.certificate.Subject)
	template.SubjectKeyId = next.certificate.SubjectKeyId
	template.NotBefore, template.NotAfter = now.Add(-ca.Backdate), by.NotAfter
	if next.certificate.NotAfter.Before(by.NotAfter) {
		template.NotAfter = next.certificate.NotAfter
	}
	made, err := sign(template, by, next.key.Public(), old.key, next.key)
	if err != nil {
		return nil, err
	}
	return made.certificate, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, by, key crypto.Signer) (*pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		return nil, fmt.Errorf("sign root: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read signed root: %w", err)
	}
	return &pair{certificate, key}, nil
}

// selfSigned tells whether a certificate is a root, which we may replace by ourselves.
func selfSigned(certificate *x509.Certificate) bool {
	return bytes.Equal(certificate.RawIssuer, certificate.RawSubject) && certificate.CheckSignatureFrom(certificate) == nil
}
