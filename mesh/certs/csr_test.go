package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestRequestNamesTheIdentityInACriticalExtensionOnly(t *testing.T) {
	id, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	key, text, err := request(id)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("request is not one PEM block: %q", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Errorf("signature: %v", err)
	}
	if csr.SignatureAlgorithm != x509.ECDSAWithSHA256 || key.Curve != elliptic.P256() || !key.PublicKey.Equal(csr.PublicKey.(*ecdsa.PublicKey)) {
		t.Errorf("signed with %v, key on %v", csr.SignatureAlgorithm, key.Curve.Params().Name)
	}
	if len(csr.Subject.Names) > 0 {
		t.Errorf("subject %v, want none", csr.Subject)
	}
	if len(csr.Extensions) != 1 || !csr.Extensions[0].Critical {
		t.Errorf("extensions %v, want one that is critical", csr.Extensions)
	}
	if len(csr.URIs) != 1 || csr.URIs[0].String() != id.String() || len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) > 0 {
		t.Errorf("names %v %v %v, want only %s", csr.URIs, csr.DNSNames, csr.IPAddresses, id)
	}
}

func TestEveryRequestHasItsOwnKey(t *testing.T) {
	id, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := request(id)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := request(id)
	if err != nil {
		t.Fatal(err)
	}
	if first.Equal(second) {
		t.Error("two requests with the same key")
	}
}
