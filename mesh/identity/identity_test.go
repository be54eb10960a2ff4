package identity_test

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestParseRefusesWhatIsNotAWorkload(t *testing.T) {
	for _, uri := range []string{
		"",
		"cluster.local/ns/a/sa/b",
		"https://cluster.local/ns/a/sa/b",
		"spiffe://cluster.local",
		"spiffe://cluster.local/ns/a",
		"spiffe://cluster.local/ns/a/sa/",
		"spiffe://cluster.local/ns//sa/b",
		"spiffe://cluster.local/ns/a/sa/b/c",
		"spiffe://cluster.local/sa/a/ns/b",
		"spiffe://cluster.local/ns/a/sa/../b",
		"spiffe://CLUSTER.local/ns/a/sa/b",
		"spiffe://cluster.local:15008/ns/a/sa/b",
		"spiffe://user@cluster.local/ns/a/sa/b",
		"spiffe://cluster.local/ns/a/sa/b?x=y",
	} {
		if id, err := identity.Parse(uri); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", uri, id)
		}
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	made, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := made.String(), "spiffe://cluster.local/ns/shop/sa/cart"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got, want := made.Principal(), "cluster.local/ns/shop/sa/cart"; got != want {
		t.Errorf("Principal() = %q, want %q", got, want)
	}
	if td, ns, sa := made.TrustDomain(), made.Namespace(), made.ServiceAccount(); td != "cluster.local" || ns != "shop" || sa != "cart" {
		t.Errorf("parts = %q, %q, %q", td, ns, sa)
	}
	parsed, err := identity.Parse(made.String())
	if err != nil || parsed != made {
		t.Errorf("Parse(String()) = %v, %v; want %v", parsed, err, made)
	}
	cert := &x509.Certificate{URIs: []*url.URL{{Scheme: "https", Host: "cart"}, made.URI()}}
	if got, err := identity.FromCertificate(cert); err != nil || got != made {
		t.Errorf("FromCertificate = %v, %v; want %v", got, err, made)
	}
}

func TestNewRefusesPartsThatWouldChangeThePath(t *testing.T) {
	for _, parts := range [][3]string{
		{"", "a", "b"}, {"td", "", "b"}, {"td", "a", ""}, {"td", "a/b", "c"}, {"td", "..", "c"}, {"td", "a", "b?c"}, {"T D", "a", "b"},
	} {
		if id, err := identity.New(parts[0], parts[1], parts[2]); err == nil {
			t.Errorf("New(%q) = %v, want an error", parts, id)
		}
	}
}

func TestIdentityLongerThanSPIFFEAllowsIsRefused(t *testing.T) {
	fits := strings.Repeat("n", 2048-len("spiffe://cluster.local/ns//sa/b"))
	if _, err := identity.New("cluster.local", fits, "b"); err != nil {
		t.Errorf("New with 2048 bytes: %v", err)
	}
	if id, err := identity.New("cluster.local", fits+"n", "b"); err == nil {
		t.Errorf("New with 2049 bytes = %v, want an error", id)
	}
	if id, err := identity.Parse("spiffe://cluster.local/ns/" + fits + "n/sa/b"); err == nil {
		t.Errorf("Parse with 2049 bytes = %v, want an error", id)
	}
}

func TestNoIdentityIsZero(t *testing.T) {
	var none identity.Workload
	if !none.IsZero() || none.String() != "" || none.Principal() != "" {
		t.Errorf("zero identity: IsZero %v, String %q, Principal %q", none.IsZero(), none.String(), none.Principal())
	}
	if td, ns, sa := none.TrustDomain(), none.Namespace(), none.ServiceAccount(); td+ns+sa != "" {
		t.Errorf("parts of the zero identity = %q, %q, %q", td, ns, sa)
	}
	if uri := none.URI().String(); uri != "" {
		t.Errorf("URI of the zero identity = %q", uri)
	}
	if _, err := identity.FromCertificate(&x509.Certificate{}); err == nil {
		t.Error("FromCertificate of a certificate without names: want an error")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/cart")
	f.Add("spiffe://cluster.local/ns/a/sa/../b")
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := identity.Parse(uri)
		if err != nil {
			return
		}
		if again, err := identity.Parse(id.String()); err != nil || again != id {
			t.Errorf("Parse(%q) = %v, which parses again as %v, %v", uri, id, again, err)
		}
	})
}
