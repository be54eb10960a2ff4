package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/keep"
	"github.com/tulle-mesh/tulle/istiod-lite/review"
)

// authority is what signs, and who keeps it.
type authority struct {
	live *ca.Live
	run  []func(context.Context) error // on every replica
	lead []func(context.Context) error // on one of them
}

// openAuthority opens what signs, and returns the control plane's own certificate.
func (d *Daemon) openAuthority(ctx context.Context) (serving *ca.Serving, err error) {
	waits := func(err error) { d.waits.Store(&err) }
	waits(errors.New("authority"))
	if d.authority, err = openAuthority(ctx, d.cfg, d.source.api, waits, d.log.With("scope", "ca")); err != nil {
		return nil, err
	}
	return ca.NewServing(d.authority.live, d.cfg.ServerNames)
}

// openAuthority opens the authority that is plugged in or, without one, our own: in a folder, or in a Secret of the cluster.
// For that it waits until the API server answers; waits is told what for.
func openAuthority(ctx context.Context, cfg config.Config, api *rest.Config, waits func(error), log *slog.Logger) (authority, error) {
	var a authority
	plugged, err := keep.OpenPlugged(cfg.CACerts, log)
	switch {
	case err != nil:
		return a, err
	case plugged != nil:
		a = authority{live: plugged.Live(), run: []func(context.Context) error{plugged.Run}}
	case api != nil:
		secret, err := keep.OpenSecret(ctx, secretConfig(cfg, api, log), waits)
		if err != nil {
			return a, err
		}
		return authority{
			live: secret.Live(), run: []func(context.Context) error{secret.Run}, lead: []func(context.Context) error{secret.Rotate},
		}, nil
	default:
		own, err := keep.OpenFolder(cfg.State, cfg.TrustDomain)
		if err != nil {
			return a, err
		}
		a.live = ca.NewLive(own)
	}
	if cfg.State != "" {
		if err := keep.Publish(cfg.State, a.live); err != nil {
			return a, err
		}
		a.run = append(a.run, func(ctx context.Context) error { return keep.KeepPublished(ctx, cfg.State, a.live) })
	}
	return a, nil
}

func secretConfig(cfg config.Config, api *rest.Config, log *slog.Logger) keep.SecretConfig {
	return keep.SecretConfig{
		API: api, Namespace: cfg.RootNamespace, Interval: cfg.RootCheckInterval, Log: log,
		Rotation: keep.Rotation{
			Organization: cfg.TrustDomain, TTL: cfg.RootTTL, Grace: cfg.RootGrace,
			// By then every client has renewed what it was signed before.
			Announce: cfg.DefaultCertTTL, Retire: cfg.MaxCertTTL + time.Hour,
		},
	}
}

// authenticator proves callers: by the API server, or without a cluster by a key.
func authenticator(cfg config.Config, api *rest.Config) (ca.Authenticator, error) {
	if api == nil {
		return ca.NewTokens(cfg.TokenKey), nil
	}
	return review.New(review.Config{API: api, Audiences: cfg.TokenAudiences, ClusterID: cfg.ClusterID})
}
