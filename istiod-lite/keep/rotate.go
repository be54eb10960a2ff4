package keep

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// Rotation says when a self-signed root is replaced. It goes in three steps, so that at no moment two clients of the mesh
// distrust each other, whichever step each has heard of:
//
//  1. announce: the next root is made and published beside the one that signs.
//  2. promote: the next root signs. The former one stays published, for what it has signed; and vouches for the next one by
//     a cross-signed certificate in each chain, for clients that haven't heard of the next one.
//  3. retire: nothing that the former root signed is valid any more, so it goes.
//
// What step comes next, and when, is read from the certificates themselves. So it doesn't matter who does it.
type Rotation struct {
	// Organization is within the name of new roots.
	Organization string
	// TTL is the life of a new root; the next one is made when Grace percent of it are left.
	TTL   time.Duration
	Grace int
	// Announce is how long a root is published before it signs: as long as clients need to hear of it. It is cut to half
	// of the grace period.
	Announce time.Duration
	// Retire is how long the former root stays published after that: as long as certificates live.
	Retire time.Duration
}

// state is a root of ours, somewhere in its rotation.
type state struct {
	signer pair
	// above are cross-signed certificates of the signer's key by former roots, the youngest first; and whatever else a
	// signer that isn't ours needs.
	above []*x509.Certificate
	// roots are all that are published.
	roots []*x509.Certificate
	next  *pair // announced
}

// begin makes the first root.
func (r Rotation) begin(now time.Time) (state, error) {
	root, err := newRoot(r.Organization, r.TTL, now)
	if err != nil {
		return state{}, err
	}
	return state{signer: *root, roots: []*x509.Certificate{root.certificate}}, nil
}

// advance takes all steps that are due and tells which.
func (r Rotation) advance(s state, now time.Time) (state, []string, error) {
	var steps []string
	for range 8 { // after a long sleep several are due at once
		next, step, err := r.step(s, now)
		if err != nil || step == "" {
			return s, steps, err
		}
		s, steps = next, append(steps, step)
	}
	return s, steps, nil
}

// step takes the step that is due, if one is. A signer that isn't self-signed is somebody else's to replace.
func (r Rotation) step(s state, now time.Time) (state, string, error) {
	switch {
	case !selfSigned(s.signer.certificate):
		return s, "", nil
	case s.next != nil && !now.Before(s.next.certificate.NotAfter):
		s.roots = without(s.roots, s.next.certificate)
		s.next = nil
		return s, "forgot a root that expired before it signed", nil
	case s.next != nil && !now.Before(r.promoteAt(s)):
		return r.promote(s, now)
	case s.next == nil && !now.Before(r.announceAt(s)):
		return r.announce(s, now)
	}
	return r.retire(s, now)
}

// grace is how much of a root's life is left when the next one is made.
func (r Rotation) grace(root *x509.Certificate) time.Duration {
	return root.NotAfter.Sub(root.NotBefore.Add(ca.Backdate)) / 100 * time.Duration(r.Grace)
}

func (r Rotation) announceAt(s state) time.Time {
	return s.signer.certificate.NotAfter.Add(-r.grace(s.signer.certificate))
}

func (r Rotation) promoteAt(s state) time.Time {
	wait := min(r.Announce, r.grace(s.signer.certificate)/2)
	at := s.next.certificate.NotBefore.Add(ca.Backdate + wait)
	if latest := s.signer.certificate.NotAfter.Add(-wait); latest.Before(at) {
		return latest
	}
	return at
}

func (r Rotation) announce(s state, now time.Time) (state, string, error) {
	next, err := newRoot(r.Organization, r.TTL, now)
	if err != nil {
		return s, "", err
	}
	s.next = next
	s.roots = append(slices.Clone(s.roots), next.certificate)
	return s, fmt.Sprintf("published the next root, %s", describe(next.certificate)), nil
}

func (r Rotation) promote(s state, now time.Time) (state, string, error) {
	vouched, err := cross(s.signer, *s.next, now)
	if err != nil {
		return s, "", err
	}
	if vouched == nil {
		s.above = nil // what leads to older roots does so by the former signer
	} else {
		s.above = append([]*x509.Certificate{vouched}, s.above...)
	}
	s.signer, s.next = *s.next, nil
	// The one that signs comes first, for people who look.
	s.roots = append([]*x509.Certificate{s.signer.certificate}, without(s.roots, s.signer.certificate)...)
	return s, fmt.Sprintf("root %s signs from now on", describe(s.signer.certificate)), nil
}

// retire removes a former root, with the certificate by which it vouches.
func (r Rotation) retire(s state, now time.Time) (state, string, error) {
	for _, root := range s.roots {
		if root.Equal(s.signer.certificate) || s.next != nil && root.Equal(s.next.certificate) {
			continue
		}
		if now.Before(root.NotAfter) && now.Before(r.retireAt(s, root)) {
			continue
		}
		s.roots = without(s.roots, root)
		s.above = slices.DeleteFunc(slices.Clone(s.above), func(one *x509.Certificate) bool { return one.CheckSignatureFrom(root) == nil })
		return s, fmt.Sprintf("root %s is no longer published", describe(root)), nil
	}
	return s, "", nil
}

// retireAt is when nothing is valid any more that the former root has signed by itself. A root that is not of ours, but was
// added by hand, stays until it ends.
func (r Rotation) retireAt(s state, root *x509.Certificate) time.Time {
	for _, one := range s.above {
		if one.CheckSignatureFrom(root) == nil {
			return one.NotBefore.Add(ca.Backdate + r.Retire)
		}
	}
	return root.NotAfter
}

func without(list []*x509.Certificate, one *x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(list), one.Equal)
}

func describe(root *x509.Certificate) string {
	return fmt.Sprintf("%q (serial %x, until %s)", root.Subject.CommonName, root.SerialNumber, root.NotAfter.Format(time.RFC3339))
}

// authority is what the state signs with and publishes.
func (s state) authority() (*ca.Authority, error) {
	return ca.New(ca.Material{Key: s.signer.key, Chain: append([]*x509.Certificate{s.signer.certificate}, s.above...), Roots: s.roots})
}
