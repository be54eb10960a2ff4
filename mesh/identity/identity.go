// Package identity holds the names by which workloads prove themselves: SPIFFE ids of the form
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxLength is the longest SPIFFE id, scheme included, in bytes (SPIFFE-ID section 2.3).
const maxLength = 2048

const scheme = "spiffe://"

// Workload is the identity of a service account. It comes only out of New, Parse and FromCertificate, so one that
// isn't zero is valid. It is comparable. Its parts are views of one string, so reading them costs nothing.
type Workload struct {
	uri string
	// Where the trust domain and the namespace end in uri.
	domainEnd, namespaceEnd uint16
}

// New makes an identity of its parts.
func New(trustDomain, namespace, serviceAccount string) (Workload, error) {
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return Workload{}, fmt.Errorf("trust domain %q: %w", trustDomain, err)
	}
	if err := spiffeid.ValidatePathSegment(namespace); err != nil {
		return Workload{}, fmt.Errorf("namespace %q: %w", namespace, err)
	}
	if err := spiffeid.ValidatePathSegment(serviceAccount); err != nil {
		return Workload{}, fmt.Errorf("service account %q: %w", serviceAccount, err)
	}
	return join(td.Name(), namespace, serviceAccount)
}

func join(trustDomain, namespace, serviceAccount string) (Workload, error) {
	uri := scheme + trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount
	if len(uri) > maxLength {
		return Workload{}, fmt.Errorf("identity of %d bytes, the limit is %d", len(uri), maxLength)
	}
	domainEnd := len(scheme) + len(trustDomain)
	return Workload{
		uri:          uri,
		domainEnd:    uint16(domainEnd),
		namespaceEnd: uint16(domainEnd + len("/ns/") + len(namespace)),
	}, nil
}

// Parse reads spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
func Parse(uri string) (Workload, error) {
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return Workload{}, fmt.Errorf("identity %q: %w", uri, err)
	}
	return fromID(id)
}

// FromURI is Parse for an already parsed URI, such as a certificate's.
func FromURI(uri *url.URL) (Workload, error) {
	id, err := spiffeid.FromURI(uri)
	if err != nil {
		return Workload{}, fmt.Errorf("identity %q: %w", uri, err)
	}
	return fromID(id)
}

// FromCertificate reads the first SPIFFE URI among the certificate's alternative names.
func FromCertificate(cert *x509.Certificate) (Workload, error) {
	for _, uri := range cert.URIs {
		if uri.Scheme == "spiffe" {
			return FromURI(uri)
		}
	}
	return Workload{}, errors.New("certificate without a SPIFFE identity")
}

func fromID(id spiffeid.ID) (Workload, error) {
	segments := strings.Split(id.Path(), "/")
	if len(segments) != 5 || segments[1] != "ns" || segments[3] != "sa" {
		return Workload{}, fmt.Errorf("identity %q: want spiffe://<trust domain>/ns/<namespace>/sa/<service account>", id)
	}
	return join(id.TrustDomain().Name(), segments[2], segments[4])
}

// TrustDomain returns the name of the authority behind the identity, such as cluster.local.
func (w Workload) TrustDomain() string {
	if w.IsZero() {
		return ""
	}
	return w.uri[len(scheme):w.domainEnd]
}

// Namespace returns the Kubernetes namespace.
func (w Workload) Namespace() string {
	if w.IsZero() {
		return ""
	}
	return w.uri[int(w.domainEnd)+len("/ns/") : w.namespaceEnd]
}

// ServiceAccount returns the Kubernetes service account.
func (w Workload) ServiceAccount() string {
	if w.IsZero() {
		return ""
	}
	return w.uri[int(w.namespaceEnd)+len("/sa/"):]
}

// IsZero tells that there is no identity: the peer was not authenticated.
func (w Workload) IsZero() bool { return w.uri == "" }

// String returns the SPIFFE URI, or "" for the zero identity.
func (w Workload) String() string { return w.uri }

// Principal returns the URI without its scheme, as authorization policies write it, or "" for the zero identity.
func (w Workload) Principal() string {
	if w.IsZero() {
		return ""
	}
	return w.uri[len(scheme):]
}

// URI returns the identity as a certificate's alternative name holds it.
func (w Workload) URI() *url.URL {
	if w.IsZero() {
		return &url.URL{}
	}
	return &url.URL{Scheme: "spiffe", Host: w.TrustDomain(), Path: w.uri[w.domainEnd:]}
}
