package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// request makes a new key and a request, in PEM form, to certify it for id: ECDSA P-256 with SHA-256, an empty subject and
// one critical extension with the identity's URI as the only alternative name (critical since the subject is empty: RFC
// 5280 section 4.2.1.6).
func request(id identity.Workload) (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make key: %w", err)
	}
	names, err := alternativeName(id)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		SignatureAlgorithm: x509.ECDSAWithSHA256,
		ExtraExtensions:    []pkix.Extension{names},
	}, key)
	if err != nil {
		return nil, "", fmt.Errorf("make certificate request: %w", err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// alternativeName is written by hand since crypto/x509 marks it critical in certificates, but not in requests.
func alternativeName(id identity.Workload) (pkix.Extension, error) {
	const tagURI = 6 // uniformResourceIdentifier of GeneralName, RFC 5280 section 4.2.1.6
	value, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(id.String())},
	})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode identity %s: %w", id, err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}, nil
}
