// Package roots is whom this program trusts as a client of servers that prove themselves by the certificates of public authorities.
package roots

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Trust makes this program know servers by the authorities that browsers know, if the system has none of its own, as in an
// image that holds nothing but the program. SSL_CERT_FILE names others. It costs some milliseconds and megabytes, so it is called when it is needed
// first, and does something once.
var Trust = sync.OnceFunc(func() {
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
