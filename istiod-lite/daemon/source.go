package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/kube"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/watch"
)

// source prepares where objects come from. What it returns is nil for a folder.
func source(cfg config.Config, version string) (*rest.Config, error) {
	if cfg.Source == "" {
		return kube.Connect(cfg.Kubeconfig, "istiod-lite/"+version)
	}
	// Nobody is enrolled where no agent has made the folder.
	if err := os.MkdirAll(cfg.Status, 0o755); err != nil {
		return nil, fmt.Errorf("make status folder: %w", err)
	}
	return nil, nil
}

// sourceName is what people call it.
func (d *Daemon) sourceName() string {
	if d.api == nil {
		return d.cfg.Source
	}
	return d.api.Host
}

// follow runs the source of objects until the context ends.
func (d *Daemon) follow(ctx context.Context) error {
	if d.cfg.Source != "" {
		return watch.Files{
			Source: d.cfg.Source, Status: d.cfg.Status, Apply: d.apply, Report: d.report, Log: d.log.With("scope", "watch"),
		}.Run(ctx)
	}
	return kube.Source{
		API: d.api, SystemNamespace: d.cfg.RootNamespace, Apply: d.apply, Reject: d.reject, Registry: d.registry,
		Log: d.log.With("scope", "kube"),
	}.Run(ctx)
}

// apply takes changes in.
func (d *Daemon) apply(changes []model.Change) {
	began := time.Now()
	d.pipeline.apply(changes)
	d.metrics.applied(changes, time.Since(began))
}

// report says which file can't be used.
func (d *Daemon) report(err error) {
	d.metrics.rejected.WithLabelValues("file").Inc()
	d.trouble.Store(&err)
	if d.pipeline.ready.Load() {
		d.log.Error("file not used, what it said before stays in force", "scope", "watch", "err", err)
		return
	}
	d.log.Error("file not used, and nothing is served until all objects could be read", "scope", "watch", "err", err)
}

// reject says which object of the cluster can't be used.
func (d *Daemon) reject(r kube.Rejection) {
	d.metrics.rejected.WithLabelValues(r.Kind.Kind).Inc()
	consequence := "what it said before stays in force"
	switch {
	case r.Closed:
		consequence = "it said nothing before, so it lets nobody in"
	case r.First:
		consequence = "it isn't in force"
	}
	args := []any{"scope", "kube", "kind", r.Kind.Kind, "object", r.Name.String(), "err", r.Err}
	if field, ok := errors.AsType[*decode.Error](r.Err); ok {
		args = append(args, "field", field.Field)
	}
	d.log.Error("object not used, "+consequence, args...)
}
