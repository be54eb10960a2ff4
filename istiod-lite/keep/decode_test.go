package keep

import (
	"crypto/ecdsa"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// Istio's own authority leaves the roots out, and has an RSA key.
func TestTheSecretOfIstioIsTakenOver(t *testing.T) {
	root := issue(t, nil, rsaKey(t, 2048), func(c *x509.Certificate) { c.Subject.Organization = []string{"cluster.local"} })
	data := map[string][]byte{
		"ca-cert.pem": ca.EncodeCertificate(root.certificate), "ca-key.pem": pkcs8(t, root.key), "cert-chain.pem": {}, "root-cert.pem": {}, "key.pem": {},
	}
	s, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if a := authorityOf(t, s); string(a.RootsPEM()) != string(data["ca-cert.pem"]) {
		t.Error("other roots")
	}
	r := usual()
	later := root.certificate.NotAfter.Add(-5 * day)
	s, steps, err := r.advance(s, later)
	if err != nil || len(steps) != 1 {
		t.Fatalf("%q %v", steps, err)
	}
	s, steps, err = r.advance(s, later.Add(day))
	if err != nil || len(steps) != 1 || len(s.above) != 1 {
		t.Fatalf("%q %v", steps, err)
	}
	if _, isEC := s.signer.key.(*ecdsa.PrivateKey); !isEC {
		t.Errorf("key of type %T", s.signer.key)
	}
}

func TestARootOfSomebodyElseIsNotReplaced(t *testing.T) {
	root := issue(t, nil, ecKey(t), nil)
	below := issue(t, &root, ecKey(t), nil)
	s, err := decode(map[string][]byte{
		"ca-cert.pem": ca.EncodeCertificate(below.certificate), "ca-key.pem": pkcs8(t, below.key), "root-cert.pem": ca.EncodeCertificate(root.certificate),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, steps, err := usual().advance(s, below.certificate.NotAfter); len(steps) != 0 || err != nil {
		t.Errorf("%q %v", steps, err)
	}
	// A root that was added by hand stays, whatever is retired.
	own, err := usual().begin(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own.roots = append(own.roots, root.certificate)
	if after, steps, err := usual().advance(own, time.Now().Add(day)); len(steps) != 0 || err != nil || len(after.roots) != 2 {
		t.Errorf("%q %v", steps, err)
	}
}

func TestDamagedSecretsAreRefused(t *testing.T) {
	r := usual()
	s := begun(t, r)
	s, _, err := r.advance(s, time.Now().Add(RootTTL*9/10))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string][]byte){
		"ca-key.pem":    func(d map[string][]byte) { delete(d, "ca-key.pem") },
		"ca-cert.pem":   func(d map[string][]byte) { d["ca-cert.pem"] = []byte("x") },
		"root-cert.pem": func(d map[string][]byte) { d["root-cert.pem"] = []byte("x") },
		"next-key.pem":  func(d map[string][]byte) { delete(d, "next-key.pem") },
		"next-cert.pem": func(d map[string][]byte) { d["next-key.pem"] = d["ca-key.pem"] },
	} {
		data, err := s.encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		change(data)
		if _, err := decode(data); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: whatever a Secret holds, it is a state that can be written again, or an error.
func FuzzDecode(f *testing.F) {
	r := usual()
	s, err := r.begin(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	for range 2 {
		data, err := s.encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data["ca-cert.pem"], data["ca-key.pem"], data["cert-chain.pem"], data["root-cert.pem"], data["next-cert.pem"], data["next-key.pem"])
		if s, _, err = r.advance(s, time.Now().Add(RootTTL*9/10)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("x"), []byte{}, []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, certificate, key, chain, roots, nextCertificate, nextKey []byte) {
		s, err := decode(map[string][]byte{
			"ca-cert.pem": certificate, "ca-key.pem": key, "cert-chain.pem": chain, "root-cert.pem": roots,
			"next-cert.pem": nextCertificate, "next-key.pem": nextKey,
		})
		if err != nil {
			return
		}
		if _, err := s.authority(); err != nil {
			return
		}
		if _, _, err := usual().advance(s, time.Now().Add(RootTTL)); err != nil {
			t.Log(err)
		}
		if _, err := s.encode(nil); err != nil {
			t.Error(err)
		}
	})
}
