// Package revocation has a program heed revocation lists: which of its tunnels' peers are refused, from which file that is known, what is done when
// it changes.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/file"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// Policy is what tunnels ask of peers, as it is set. Whom revocation lists refuse is counted.
func Policy(s settings.Security, counts *telemetry.CRL) mtls.Policy {
	policy := mtls.Policy{TrustDomains: s.TrustDomains, PostQuantum: s.PostQuantum}
	if s.CRL != "" {
		policy.Revocations = mtls.NewRevocations(s.CRL)
		policy.OnRevoked = func(revoked *mtls.RevokedError) {
			if revoked.Client {
				counts.Rejected(telemetry.Destination)
			} else {
				counts.Rejected(telemetry.Source)
			}
		}
	}
	return policy
}

// Follow reads the revocation lists of a policy, if it has any, and follows their file until ctx ends: cut is called whenever other ones are in
// force. A broken file at the start is an error: what it was meant to revoke would be let in. A missing one isn't: the ConfigMap is optional.
func Follow(ctx context.Context, background *sync.WaitGroup, path string, lists *mtls.Revocations, cut func(), log *slog.Logger) error {
	if path == "" {
		return nil
	}
	seen := file.Look(path)
	if err := load(lists, log); errors.Is(err, fs.ErrNotExist) {
		log.Warn("there are no revocation lists yet; nothing is revoked", "err", err)
	} else if err != nil {
		return fmt.Errorf("CRL_PATH: %w", err)
	}
	background.Go(func() {
		err := seen.Follow(ctx, func() {
			if err := load(lists, log); err != nil {
				log.Error("revocation lists not taken; the last good ones stay in force", "err", err)
				return
			}
			cut()
		})
		if err != nil {
			log.Error("changes of revocation lists go unnoticed", "err", err)
		}
	})
	return nil
}

func load(lists *mtls.Revocations, log *slog.Logger) error {
	summary, err := lists.Load()
	if err != nil {
		return err
	}
	log.Info("revocation lists are in force", "lists", summary.Lists, "revoked", summary.Revoked)
	for _, issuer := range summary.Outdated {
		log.Warn("revocation list is outdated, and stays in force; renew it", "issuer", issuer)
	}
	return nil
}
