package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/file"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// tunnelPolicy is what the tunnels of all pods ask of peers.
func tunnelPolicy(cfg config.Security, counts *telemetry.CRL) mtls.Policy {
	policy := mtls.Policy{TrustDomains: cfg.TrustDomains, PostQuantum: cfg.PostQuantum}
	if cfg.CRL != "" {
		policy.Revocations = mtls.NewRevocations(cfg.CRL)
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

// followRevocations reads the revocation lists and follows them. A broken file at the start is an error: what it was meant
// to revoke would be let in. A missing one isn't: the ConfigMap is optional.
func (z *ztunnel) followRevocations(ctx context.Context, background *sync.WaitGroup) error {
	path := z.cfg.Security.CRL
	if path == "" {
		return nil
	}
	seen := file.Look(path)
	if err := loadRevocations(z.tls.Revocations, z.log); errors.Is(err, fs.ErrNotExist) {
		z.log.Warn("there are no revocation lists yet; nothing is revoked", "err", err)
	} else if err != nil {
		return fmt.Errorf("CRL_PATH: %w", err)
	}
	background.Go(func() {
		err := seen.Follow(ctx, func() {
			if err := loadRevocations(z.tls.Revocations, z.log); err != nil {
				z.log.Error("revocation lists not taken; the last good ones stay in force", "err", err)
				return
			}
			z.pods.cutRevoked()
		})
		if err != nil {
			z.log.Error("changes of revocation lists go unnoticed", "err", err)
		}
	})
	return nil
}

func loadRevocations(lists *mtls.Revocations, log *slog.Logger) error {
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
