// Package secure speaks TLS to servers: whom a server's certificate must be for, and a pipe's bytes through TLS.
package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/roots"
)

// Policy is how the servers behind a port are spoken to. It doesn't change.
type Policy struct {
	// Invalid is why they can't be; empty if they can.
	Invalid string

	about  string // the object that asks for it
	from   *l7.BackendTLS
	config *tls.Config
	names  []name
}

// name is one that a certificate may be for.
type name struct {
	host string
	uri  *url.URL
}

// Refused is a policy for servers that can't be spoken to.
func Refused(reason string) *Policy { return &Policy{Invalid: reason} }

// Compile makes a policy of what the control plane says. The error says what of it can't be obeyed; then it refuses.
func Compile(origin *l7.Origin, from *l7.BackendTLS) (*Policy, error) {
	p := &Policy{about: fmt.Sprintf("%s %s/%s", origin.GetKind(), origin.GetNamespace(), origin.GetName()), from: from}
	if from.GetInvalid() != "" { // the control plane knows
		p.Invalid = p.about + ": " + from.GetInvalid()
		return p, nil
	}
	if err := p.compile(from); err != nil {
		p.Invalid = p.about + ": " + err.Error()
		return p, errors.New(p.Invalid)
	}
	return p, nil
}

// Equal tells whether two policies are of one object and say the same.
func (p *Policy) Equal(other *Policy) bool {
	return p != nil && other != nil && p.about == other.about && proto.Equal(p.from, other.from)
}

func (p *Policy) compile(from *l7.BackendTLS) error {
	p.config = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: from.GetHostname()}
	switch {
	case from.GetHostname() == "":
		return errors.New("it has no host name")
	case from.GetSystem() && from.GetAuthorities() == "":
		roots.Trust()
	default:
		p.config.RootCAs = x509.NewCertPool()
		if !p.config.RootCAs.AppendCertsFromPEM([]byte(from.GetAuthorities())) {
			return errors.New("it trusts no authority")
		}
	}
	for _, each := range from.GetSubjectAltNames() {
		one := name{host: strings.ToLower(each.GetHostname())}
		if each.GetUri() != "" {
			var err error
			if one.uri, err = url.Parse(each.GetUri()); err != nil {
				return fmt.Errorf("subject %q: %w", each.GetUri(), err)
			}
		}
		if (one.host == "") == (one.uri == nil) {
			return errors.New("a subject has to be a host name or a URI")
		}
		p.names = append(p.names, one)
	}
	if len(p.names) > 0 {
		p.config.InsecureSkipVerify = true // which would be for the server name: verify does the same, but for other names
		p.config.VerifyConnection = p.verify
	}
	return nil
}

// verify checks a certificate whose names aren't those that the server is asked for by.
func (p *Policy) verify(state tls.ConnectionState) error {
	chain := state.PeerCertificates
	options := x509.VerifyOptions{Roots: p.config.RootCAs, Intermediates: x509.NewCertPool()}
	for _, above := range chain[1:] {
		options.Intermediates.AddCert(above)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return err
	}
	if !slices.ContainsFunc(p.names, func(n name) bool { return n.of(chain[0]) }) {
		return errors.New("the certificate is for none of the policy's subjectAltNames")
	}
	return nil
}

// of tells whether a certificate is for the name.
func (n name) of(c *x509.Certificate) bool {
	if n.uri != nil {
		return slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == n.uri.String() })
	}
	if strings.HasPrefix(n.host, "*.") {
		return slices.ContainsFunc(c.DNSNames, func(each string) bool { return strings.EqualFold(each, n.host) })
	}
	return c.VerifyHostname(n.host) == nil
}
