package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/istiod-lite/kube"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/watch"
	"github.com/tulle-mesh/tulle/mesh/calm"
)

// source is where objects come from: a folder or a cluster.
type source struct {
	name string
	api  *rest.Config // nil for a folder
	// run follows the objects until the context ends.
	run func(context.Context) error
	// pending says what isn't there yet at the start.
	pending func() []string
	// lagging says of what it doesn't hear at present.
	lagging func() []string
}

// open prepares the source.
func (d *Daemon) open() (err error) {
	if d.cfg.Source != "" {
		return d.openFolder()
	}
	d.source.api, err = kube.Connect(d.cfg.Kubeconfig, "istiod-lite/"+d.version)
	if err != nil {
		return err
	}
	cluster := &kube.Source{
		API: d.source.api, SystemNamespace: d.cfg.RootNamespace, Revisions: settings(d.cfg).Revisions, Apply: d.apply, Reject: d.reject, Registry: d.registry,
		Log: d.log.With("scope", "kube"),
	}
	d.source.name, d.source.run, d.source.pending, d.source.lagging = d.source.api.Host, cluster.Run, cluster.Pending, cluster.Lagging
	return nil
}

func (d *Daemon) openFolder() error {
	if info, err := os.Stat(d.cfg.Source); err != nil || !info.IsDir() {
		return fmt.Errorf("--source files %s: want a folder with the objects of the mesh; make it, or name another", d.cfg.Source)
	}
	// Nobody is enrolled where no agent has made the folder.
	if err := os.MkdirAll(d.cfg.Status, 0o755); err != nil {
		return fmt.Errorf("make status folder: %w", err)
	}
	d.source = source{
		name: d.cfg.Source,
		run: watch.Files{
			Source: d.cfg.Source, Status: d.cfg.Status, Apply: d.apply, Report: d.report, Log: d.log.With("scope", "watch"),
		}.Run,
		pending: func() []string {
			if trouble := d.trouble.Load(); trouble != nil {
				return []string{(*trouble).Error()}
			}
			return nil
		},
		lagging: func() []string { return nil },
	}
	return nil
}

// apply takes changes in while anybody is served.
func (d *Daemon) apply(changes []model.Change) {
	began := time.Now()
	d.writers.forget(changes)
	if !d.pipeline.apply(d.drain.ended, changes) {
		return
	}
	d.writers.take(changes)
	d.once.Do(func() {
		calm.Headroom(headroom())
		close(d.synced)
	})
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
	if r.Err != nil {
		d.metrics.rejected.WithLabelValues(r.Kind.Kind).Inc()
	}
	d.verdicts.reject(r)
}
