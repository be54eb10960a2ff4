package mtls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// FuzzRevocationLists reads any file: an error or lists, nothing else.
func FuzzRevocationLists(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1, 0),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Unix(0, 0), ReasonCode: 1}},
	}, issuer, key)
	if err != nil {
		f.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	for _, seed := range [][]byte{der, text, append(text, text...), text[:40], nil, []byte(" "), []byte("-----BEGIN X509 CRL-----")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lists, err := parseRevocations(text)
		if err == nil && len(lists) == 0 {
			t.Error("neither lists nor an error")
		}
		summarize(lists, time.Now())
	})
}
