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

// Workload is the identity of a service account. It comes only out of New, Parse and FromCertificate, so one that
// isn't zero is valid. It is comparable.
type Workload struct {
	trustDomain    spiffeid.TrustDomain
	namespace      string
	serviceAccount string
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
	return Workload{trustDomain: td, namespace: namespace, serviceAccount: serviceAccount}, nil
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
	return Workload{trustDomain: id.TrustDomain(), namespace: segments[2], serviceAccount: segments[4]}, nil
}

// TrustDomain returns the name of the authority behind the identity, such as cluster.local.
func (w Workload) TrustDomain() string { return w.trustDomain.Name() }

// Namespace returns the Kubernetes namespace.
func (w Workload) Namespace() string { return w.namespace }

// ServiceAccount returns the Kubernetes service account.
func (w Workload) ServiceAccount() string { return w.serviceAccount }

// IsZero tells that there is no identity: the peer was not authenticated.
func (w Workload) IsZero() bool { return w == Workload{} }

// String returns the SPIFFE URI, or "" for the zero identity.
func (w Workload) String() string {
	if w.IsZero() {
		return ""
	}
	return "spiffe://" + w.Principal()
}

// Principal returns the URI without its scheme, as authorization policies write it, or "" for the zero identity.
func (w Workload) Principal() string {
	if w.IsZero() {
		return ""
	}
	return w.trustDomain.Name() + "/ns/" + w.namespace + "/sa/" + w.serviceAccount
}

// URI returns the identity as a certificate's alternative name holds it.
func (w Workload) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: w.trustDomain.Name(), Path: "/ns/" + w.namespace + "/sa/" + w.serviceAccount}
}
