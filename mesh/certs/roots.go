package certs

import (
	"context"
	"crypto/sha256"
	"io"
	"os"

	"github.com/tulle-mesh/tulle/mesh/file"
)

// FollowRoots has certificates renewed when the file of the control plane's roots changes, which is when the roots that come with
// certificates do: else a new root would be unknown here until the certificates' half-life. It returns when ctx ends.
func (m *Manager) FollowRoots(ctx context.Context, path string) {
	seen := file.Look(path)
	roots := fingerprint(path)
	err := seen.Follow(ctx, func() {
		now := fingerprint(path)
		if now == roots || now == "" {
			return // somebody writes the same again and again, or has taken the file away
		}
		roots = now
		m.log.Info("the control plane's roots have changed; certificates are renewed", "file", path)
		m.Renew()
	})
	if err != nil {
		m.log.Error("changes of the control plane's roots go unnoticed", "err", err)
	}
}

// fingerprint tells contents of a file apart; it is "" where there is none.
func fingerprint(path string) string {
	const limit = 1 << 20 // as the control plane's client has it
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	hash := sha256.New()
	if n, err := io.Copy(hash, io.LimitReader(f, limit)); err != nil || n == 0 {
		return ""
	}
	return string(hash.Sum(nil))
}
