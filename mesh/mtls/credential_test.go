package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// answer is what a certificate authority would have sent for the credential.
func answer(c *mtls.Credential) []string { return append(slices.Clone(c.ChainPEM), c.RootsPEM) }

func signer(c *mtls.Credential) *ecdsa.PrivateKey {
	return c.Certificate.PrivateKey.(*ecdsa.PrivateKey)
}

func TestCredentialOfACertificateAuthoritysAnswer(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	ca.Rotate() // two roots
	id := ca.Identity("shop", "cart")
	source := ca.Issue(testca.Spec{Identity: id, Intermediates: 2})
	for name, chain := range map[string][]string{
		"one certificate each":             answer(source),
		"leaf and intermediates in one":    {strings.Join(source.ChainPEM, ""), source.RootsPEM},
		"text between the certificates":    append([]string{"subject: cart\n" + source.ChainPEM[0]}, answer(source)[1:]...),
		"no newline at the end of an item": trimmed(answer(source)),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := mtls.NewCredential(signer(source), chain)
			if err != nil {
				t.Fatal(err)
			}
			if c.Identity != id || c.Certificate.Leaf == nil || len(c.Certificate.Certificate) != 3 {
				t.Errorf("identity %v, leaf %v, %d certificates", c.Identity, c.Certificate.Leaf, len(c.Certificate.Certificate))
			}
			if !slices.Equal(c.ChainPEM, source.ChainPEM) || c.RootsPEM != source.RootsPEM {
				t.Error("the chain in PEM form is not what was sent")
			}
			if n := strings.Count(c.RootsPEM, "BEGIN CERTIFICATE"); n != 2 {
				t.Errorf("%d roots, want 2", n)
			}
		})
	}
}

func trimmed(texts []string) []string {
	for i, text := range texts {
		texts[i] = strings.TrimSpace(text)
	}
	return texts
}

func TestCredentialLifeIsThatOfTheShortestCertificate(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	from, to := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	c := ca.Issue(testca.Spec{Identity: ca.Identity("shop", "cart"), NotBefore: from, NotAfter: to, Intermediates: 1})
	if !c.NotBefore().Equal(from) || !c.NotAfter().Equal(to) {
		t.Errorf("life of the leaf: %v to %v, want %v to %v", c.NotBefore(), c.NotAfter(), from, to)
	}
	c = ca.Issue(testca.Spec{Identity: ca.Identity("shop", "cart"), NotAfter: time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC), Intermediates: 1})
	if want := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC); !c.NotAfter().Equal(want) {
		t.Errorf("life of the intermediate: until %v, want %v", c.NotAfter(), want)
	}
}

func TestUselessAnswersOfACertificateAuthorityAreRefused(t *testing.T) {
	ca, foreign := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	id := ca.Identity("shop", "cart")
	good := ca.Issue(testca.Spec{Identity: id, Intermediates: 1})
	key := signer(good)
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(otherKey)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	leaf, intermediate, roots := good.ChainPEM[0], good.ChainPEM[1], good.RootsPEM
	for _, test := range []struct {
		name  string
		key   *ecdsa.PrivateKey
		chain []string
		want  string
	}{
		{"nothing", key, nil, "0 elements"},
		{"leaf without roots", key, []string{leaf}, "1 elements"},
		{"empty roots", key, []string{leaf, intermediate, ""}, "element 3 of 3: no certificate"},
		{"empty leaf", key, []string{"", intermediate, roots}, "element 1 of 3: no certificate"},
		{"no PEM", key, []string{"leaf", roots}, "element 1 of 2: no certificate"},
		{"a key among the certificates", key, []string{leaf, keyPEM, roots}, `"PRIVATE KEY"`},
		{"broken certificate", key, []string{leaf, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30}})), roots},
			"element 2 of 3: parse certificate"},
		{"another key", otherKey, []string{leaf, intermediate, roots}, "for another key"},
		{"intermediate missing", key, []string{leaf, roots}, "unknown authority"},
		{"order reversed", key, []string{intermediate, leaf, roots}, "for another key"},
		{"foreign roots", key, []string{leaf, intermediate, foreign.RootsPEM()}, "unknown authority"},
		{"too long", key, []string{leaf, intermediate, roots + strings.Repeat(" ", 1<<20)}, "longer than"},
		{"too many", key, []string{leaf, intermediate, strings.Repeat(roots, 200)}, "more than 200"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := mtls.NewCredential(test.key, test.chain)
			if err == nil || !strings.Contains(err.Error(), test.want) || c != nil {
				t.Errorf("NewCredential = %v, %v; want an error with %q", c, err, test.want)
			}
		})
	}
}

func FuzzNewCredential(f *testing.F) {
	ca := testca.New(f, "cluster.local")
	good := ca.Issue(testca.Spec{Identity: ca.Identity("shop", "cart"), Intermediates: 1})
	f.Add(good.ChainPEM[0], good.ChainPEM[1], good.RootsPEM)
	f.Fuzz(func(t *testing.T, leaf, intermediate, roots string) {
		c, err := mtls.NewCredential(signer(good), []string{leaf, intermediate, roots})
		if err != nil {
			return
		}
		if c.Identity != good.Identity {
			t.Errorf("credential for %v out of one for %v", c.Identity, good.Identity)
		}
		if _, err := mtls.NewCredential(signer(good), answer(c)); err != nil {
			t.Errorf("what was accepted is refused in its own form: %v", err)
		}
	})
}
