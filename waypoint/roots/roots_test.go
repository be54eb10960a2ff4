package roots

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// TestIssuersAreKnownInAnImageWithoutRoots runs itself where the system has no roots.
func TestIssuersAreKnownInAnImageWithoutRoots(t *testing.T) {
	if os.Getenv("SSL_CERT_FILE") != os.DevNull {
		here := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		here.Env = append(os.Environ(), "SSL_CERT_FILE="+os.DevNull, "SSL_CERT_DIR="+os.DevNull)
		if out, err := here.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	known := func() (n int) {
		for root := range bundle.Roots() {
			certificate, err := x509.ParseCertificate(root.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := certificate.Verify(x509.VerifyOptions{CurrentTime: certificate.NotBefore.AddDate(0, 1, 0)}); err == nil {
				n++
			}
		}
		return n
	}
	if n := known(); n != 0 {
		t.Fatalf("%d authorities are known here anyway", n)
	}
	Trust()
	Trust()
	if n := known(); n < 50 {
		t.Errorf("only %d authorities are known", n)
	}
}
