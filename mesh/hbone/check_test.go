package hbone

import (
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// What is known of certificates may change between a handshake's verification and its end.
func TestPeerThatIsFoundWantingDuringTheHandshake(t *testing.T) {
	wanting := errors.New("revoked meanwhile")
	check := func(of identity.Workload) Check {
		return func(chain []*x509.Certificate) error {
			if id, err := identity.FromCertificate(chain[0]); err != nil || id != of {
				t.Errorf("asked about %v, %v; want %v", id, err, of)
			}
			return wanting
		}
	}
	t.Run("the client", func(t *testing.T) {
		b := newBed(t)
		b.onFar(func() { b.srv.cfg.Check = check(b.client.Identity) })
		if _, err := connect(b.pool, b.target(), b.request()); err == nil {
			t.Error("its connection is taken")
		}
		eventually(t, "the failure", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return slices.ContainsFunc(b.failures, func(f Failure) bool { return f.Stage == StageTLS && errors.Is(f.Err, wanting) })
		})
	})
	t.Run("the server", func(t *testing.T) {
		b := newBed(t)
		pool := b.newPool(PoolConfig{Check: check(b.server.Identity)})
		_, err := connect(pool, b.target(), b.request())
		var dial *DialError
		if !errors.As(err, &dial) || dial.Stage != StageTLS || !errors.Is(err, wanting) {
			t.Errorf("error %v, want the check's", err)
		}
	})
}
