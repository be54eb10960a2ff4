package mtls

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// maxRevocationBytes bounds a file of revocation lists: some 200,000 revoked certificates. Kubernetes' objects hold a
	// megabyte.
	maxRevocationBytes = 8 << 20
	maxRevocationLists = 1000
)

// Revocations knows which certificates their authorities took back, by the revocation lists (RFC 5280 section 5) of a file.
// A list counts for certificates whose issuer signed both; certificates that no list is for are good, and a list that
// should have been replaced by now still counts. The nil Revocations knows none. It is safe for concurrent use.
type Revocations struct {
	path string

	mu    sync.RWMutex
	lists map[string][]revocationList
	// roots are those of all credentials that were used, by key: they may have signed peers and lists, and peers don't
	// send them.
	roots map[string]*x509.Certificate
}

// revocationList is one list of an issuer.
type revocationList struct {
	issuer    string
	next      time.Time           // when the next one was promised; zero if it wasn't
	serials   map[string]struct{} // the revoked certificates' serial numbers, big-endian
	signed    []byte
	signature []byte
	algorithm x509.SignatureAlgorithm
}

// RevokedError says that a peer's certificate was taken back.
type RevokedError struct {
	Client bool   // the peer dialled
	Name   string // of the certificate
	Serial *big.Int
	Issuer string
}

// Error implements error.
func (e *RevokedError) Error() string {
	return fmt.Sprintf("certificate of %s, serial number %s, was revoked by %q", e.Name, e.Serial, e.Issuer)
}

// NewRevocations makes one that knows nothing until Load.
func NewRevocations(path string) *Revocations {
	return &Revocations{path: path, roots: map[string]*x509.Certificate{}}
}

// RevocationSummary tells what a file holds.
type RevocationSummary struct {
	Lists, Revoked int
	Outdated       []string // issuers whose list should have been replaced by now
}

// Load reads the file. After an error what it last said stays in force.
func (r *Revocations) Load() (RevocationSummary, error) {
	text, err := readRevocations(r.path)
	if err != nil {
		return RevocationSummary{}, err
	}
	lists, err := parseRevocations(text)
	if err != nil {
		return RevocationSummary{}, fmt.Errorf("revocation lists in %s: %w", r.path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists = lists
	return summarize(lists, time.Now()), nil
}

// Check returns nil, or a *RevokedError if a certificate of a peer's chain was taken back. The chain is what the peer sent in
// a handshake that the policy let pass (tls.ConnectionState.PeerCertificates): whoever owns the connection keeps it to ask
// again after a change. Where nothing is revoked, that costs a look-up for each certificate.
func (r *Revocations) Check(chain []*x509.Certificate) error {
	if revoked := r.find(chain); revoked != nil {
		return revoked
	}
	return nil
}

func (r *Revocations) find(chain []*x509.Certificate) *RevokedError {
	if r == nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, cert := range chain {
		for _, list := range r.lists[string(cert.RawIssuer)] {
			if _, listed := list.serials[string(cert.SerialNumber.Bytes())]; listed && r.signedBothLocked(cert, list, chain) {
				return &RevokedError{Name: describe(cert), Serial: cert.SerialNumber, Issuer: cert.Issuer.String()}
			}
		}
	}
	return nil
}

// signedBothLocked tells that one authority signed the certificate and the list. Comparing names isn't enough: an old and a
// new root often have the same.
func (r *Revocations) signedBothLocked(cert *x509.Certificate, list revocationList, chain []*x509.Certificate) bool {
	signedBoth := func(issuer *x509.Certificate) bool {
		// That the key may sign lists (keyUsage cRLSign) isn't asked: Istio's own roots don't say so.
		return bytes.Equal(issuer.RawSubject, cert.RawIssuer) &&
			issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil &&
			issuer.CheckSignature(list.algorithm, list.signed, list.signature) == nil
	}
	if slices.ContainsFunc(chain, signedBoth) {
		return true
	}
	for _, root := range r.roots {
		if signedBoth(root) {
			return true
		}
	}
	return false
}

// trust remembers the credential's roots.
func (r *Revocations) trust(c *Credential) {
	if r == nil {
		return
	}
	for _, root := range c.roots {
		r.mu.RLock()
		_, known := r.roots[string(root.RawSubjectPublicKeyInfo)]
		r.mu.RUnlock()
		if !known {
			r.mu.Lock()
			r.roots[string(root.RawSubjectPublicKeyInfo)] = root
			r.mu.Unlock()
		}
	}
}

func readRevocations(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("revocation lists: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRevocationBytes+1))
	if err == nil && len(text) > maxRevocationBytes {
		err = fmt.Errorf("is longer than %d bytes", maxRevocationBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("revocation lists in %s: %w", path, err)
	}
	return text, nil
}

// parseRevocations reads any number of lists in PEM form, or one in DER form, by the issuer's name.
func parseRevocations(text []byte) (map[string][]revocationList, error) {
	lists := map[string][]revocationList{}
	add := func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("neither PEM nor DER of a revocation list: %w", err)
		}
		serials, err := revokedSerials(list)
		if err != nil {
			return err
		}
		name := string(list.RawIssuer)
		lists[name] = append(lists[name], revocationList{
			issuer: list.Issuer.String(), next: list.NextUpdate, serials: serials,
			signed: list.RawTBSRevocationList, signature: list.Signature, algorithm: list.SignatureAlgorithm,
		})
		return nil
	}
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		if len(bytes.TrimSpace(text)) == 0 {
			return nil, errors.New("is empty; put a list there, which may revoke nothing")
		}
		return lists, add(text)
	}
	count := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if count++; count > maxRevocationLists {
			return nil, fmt.Errorf("more than %d lists", maxRevocationLists)
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("list %d: PEM block %q, want X509 CRL", count, block.Type)
		}
		if err := add(block.Bytes); err != nil {
			return nil, fmt.Errorf("list %d: %w", count, err)
		}
	}
	if count != bytes.Count(text, []byte("-----BEGIN")) {
		return nil, errors.New("is cut off or damaged: not all of its PEM blocks can be read")
	}
	return lists, nil
}

// oidCertificateIssuer marks an entry of an indirect list: one about another issuer's certificates (RFC 5280 section 5.3.3).
var oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}

// reasonRemove is the reason code by which a delta list takes an entry back (RFC 5280 section 5.3.1).
const reasonRemove = 8

func revokedSerials(list *x509.RevocationList) (map[string]struct{}, error) {
	serials := make(map[string]struct{}, len(list.RevokedCertificateEntries))
	for _, entry := range list.RevokedCertificateEntries {
		for _, extension := range entry.Extensions {
			if extension.Id.Equal(oidCertificateIssuer) {
				return nil, fmt.Errorf("list of %q is indirect; give each issuer's own list", list.Issuer)
			}
		}
		if entry.ReasonCode != reasonRemove {
			serials[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
	}
	return serials, nil
}

func summarize(lists map[string][]revocationList, now time.Time) RevocationSummary {
	var s RevocationSummary
	for _, ofIssuer := range lists {
		for _, list := range ofIssuer {
			s.Lists++
			s.Revoked += len(list.serials)
			if !list.next.IsZero() && now.After(list.next) {
				s.Outdated = append(s.Outdated, list.issuer)
			}
		}
	}
	return s
}
