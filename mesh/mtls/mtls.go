// Package mtls makes the TLS configurations by which workloads prove to each other who they are: TLS 1.3, HTTP/2, and a
// certificate with a SPIFFE identity on both sides.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// protocol is the only application protocol of a tunnel.
const protocol = "h2"

// Policy is what a mesh asks of its tunnels beyond what each credential says. The zero Policy asks nothing more. It is fixed
// when a program begins.
type Policy struct {
	// TrustDomains are accepted of clients beside the credential's own. A server has to have one of the expected identities,
	// which name their trust domains themselves.
	TrustDomains []string
	// PostQuantum allows only the key exchange that quantum computers aren't known to break: X25519MLKEM768. Without it that
	// is preferred, and X25519 and the NIST curves are allowed for peers that don't know it.
	PostQuantum bool
	// Revocations says which certificates their authorities took back; nil says none.
	Revocations *Revocations
	// OnRevoked, if not nil, is called for each handshake that Revocations refuses, from any goroutine.
	OnRevoked func(*RevokedError)
}

// ServerConfig makes the accepting side's configuration. A peer has to show a certificate that leads to c.Roots and whose
// identity is of c's own trust domain or another accepted one. The result depends on c and the policy alone, costs no
// cryptography to make or to clone, and may serve any number of connections until c is replaced.
func (p Policy) ServerConfig(c *Credential) *tls.Config {
	config := p.baseConfig(c)
	// No list of accepted authorities is sent and verifyPeer does the whole verification, so that a peer with a foreign
	// certificate is told so, rather than that it had none.
	config.ClientAuth = tls.RequireAnyClientCert
	config.SessionTicketsDisabled = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf, err := p.verifyPeer(c, state, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		return p.verifyTrustDomain(c, leaf)
	}
	return config
}

// ClientConfig makes the dialling side's configuration. The peer has to show a certificate that leads to c.Roots and has
// one of the expected identities among its URI names. Nobody satisfies an empty list. Host names play no part.
func (p Policy) ClientConfig(c *Credential, expected []identity.Workload) *tls.Config {
	expected = slices.Clone(expected)
	config := p.baseConfig(c)
	// Only turns off the comparison with a host name, of which there is none: verifyPeer verifies the chain.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf, err := p.verifyPeer(c, state, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		return verifyExpected(leaf, expected)
	}
	return config
}

func (p Policy) baseConfig(c *Credential) *tls.Config {
	p.Revocations.trust(c)
	config := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		MaxVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{c.Certificate},
		NextProtos:   []string{protocol},
		// A tunnel's writer batches by itself; small records would only cost more of them.
		DynamicRecordSizingDisabled: true,
	}
	if p.PostQuantum {
		config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	}
	return config
}

// PeerIdentity returns the first SPIFFE identity of the peer's certificate. The connection must come from ServerConfig or
// ClientConfig and have finished its handshake, since it is that which verifies the certificate.
func PeerIdentity(state tls.ConnectionState) (identity.Workload, error) {
	if !state.HandshakeComplete {
		return identity.Workload{}, errors.New("peer identity asked for before the handshake has ended")
	}
	if len(state.PeerCertificates) == 0 {
		return identity.Workload{}, errors.New("peer showed no certificate")
	}
	return identity.FromCertificate(state.PeerCertificates[0])
}

// verifyPeer checks all that both sides ask of a peer and returns its leaf certificate.
func (p Policy) verifyPeer(c *Credential, state tls.ConnectionState, usage x509.ExtKeyUsage) (*x509.Certificate, error) {
	// A peer that names no protocol at all gets past crypto/tls's own negotiation.
	if state.NegotiatedProtocol != protocol {
		return nil, fmt.Errorf("peer speaks application protocol %q, want %q", state.NegotiatedProtocol, protocol)
	}
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("peer showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         c.Roots,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, fmt.Errorf("certificate of %s does not lead to the roots of %s: %w", describe(leaf), c.Identity, err)
	}
	// Who may sign may call itself anything: such a certificate is no workload's (X509-SVID section 4.1).
	if leaf.IsCA {
		return nil, fmt.Errorf("certificate of %s is a signing certificate, not a workload's", describe(leaf))
	}
	if revoked := p.Revocations.find(state.PeerCertificates); revoked != nil {
		revoked.Client = usage == x509.ExtKeyUsageClientAuth
		if p.OnRevoked != nil {
			p.OnRevoked(revoked)
		}
		return nil, revoked
	}
	return leaf, nil
}

func (p Policy) verifyTrustDomain(c *Credential, leaf *x509.Certificate) error {
	peer, err := identity.FromCertificate(leaf)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", describe(leaf), err)
	}
	own := c.Identity.TrustDomain()
	switch {
	case peer.TrustDomain() == own, slices.Contains(p.TrustDomains, peer.TrustDomain()):
		return nil
	case len(p.TrustDomains) == 0:
		return fmt.Errorf("peer %s is not of trust domain %q", peer, own)
	}
	return fmt.Errorf("peer %s is neither of trust domain %q nor of those accepted beside it: %s", peer, own, strings.Join(p.TrustDomains, ", "))
}

func verifyExpected(leaf *x509.Certificate, expected []identity.Workload) error {
	for _, uri := range leaf.URIs {
		// Other names beside the expected one don't matter.
		if id, err := identity.FromURI(uri); err == nil && slices.Contains(expected, id) {
			return nil
		}
	}
	if len(expected) == 0 {
		return fmt.Errorf("peer is %s, but no identity is expected there, so none is accepted", describe(leaf))
	}
	return fmt.Errorf("peer is %s, expected %s", describe(leaf), join(expected))
}

// describe names a certificate which may have any content, for an error.
func describe(cert *x509.Certificate) string {
	const limit = 256
	name := cert.Subject.CommonName
	if len(cert.URIs) > 0 {
		name = cert.URIs[0].String()
	}
	if len(name) > limit {
		name = name[:limit]
	}
	return fmt.Sprintf("%q", name)
}

// join lists the first few identities, for an error.
func join(ids []identity.Workload) string {
	const limit = 4
	var text string
	for i, id := range ids {
		if i == limit {
			return text + fmt.Sprintf(" or %d others", len(ids)-limit)
		}
		if i > 0 {
			text += " or "
		}
		text += id.String()
	}
	return text
}
