package jwt

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trustRoots makes this program know issuers' servers by the authorities that browsers know, if the system has none of its own, as in an
// image that holds nothing but the program. SSL_CERT_FILE names others. It costs some milliseconds and megabytes, so it is called when keys are to
// be fetched, and does something once.
var trustRoots = sync.OnceFunc(func() {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		switch {
		case err != nil: // of which it is better to know fewer
		case root.Constraint != nil:
			pool.AddCertWithConstraint(certificate, root.Constraint)
		default:
			pool.AddCert(certificate)
		}
	}
	x509.SetFallbackRoots(pool)
})
