// Package daemon wires the control plane together and runs it.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/calm"
)

// Daemon is a control plane.
type Daemon struct {
	cfg      config.Config
	source   source
	version  string
	log      *slog.Logger
	registry *prometheus.Registry
	drain    *drain
	model    *model.Model
	pipeline *pipeline
	resource *push.Log
	pusher   *push.Server
	rpc      *grpc.Server
	debug    *admin.Server
	listener net.Listener // for proxies

	authority authority
	door      *door

	waits    atomic.Pointer[error] // why there is no authority yet
	trouble  atomic.Pointer[error] // the last file that couldn't be used
	stale    atomic.Pointer[error] // why the API server doesn't trust the webhook yet
	metrics  *metrics
	verdicts *verdicts

	writers *writers      // nil without a cluster
	synced  chan struct{} // closed when everything was read once
	once    sync.Once
}

// Run runs a control plane until the context ends, which isn't an error. The version is what it says of itself.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) error {
	d, err := New(ctx, cfg, version, log)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// New shows the debug pages, opens the authority, which in a cluster waits for the API server, and listens for proxies.
// Whoever doesn't go on to Run leaks them.
func New(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (*Daemon, error) {
	calm.Headroom(gcPercentStart)
	registry := prometheus.NewRegistry()
	d := &Daemon{cfg: cfg, version: version, log: log, registry: registry, drain: newDrain(cfg.DrainTime), resource: push.NewLog()}
	d.synced = make(chan struct{})
	unknown := errors.New("first look at the webhook's configurations")
	d.stale.Store(&unknown)
	d.model = model.New(settings(cfg))
	mesh := translate.Mesh{ClusterID: cfg.ClusterID, DryRun: cfg.DryRun, Bypass: cfg.Bypass}
	if err := d.open(); err != nil {
		return nil, err
	}
	d.metrics = newMetrics(registry, d.model, version)
	d.verdicts = newVerdicts(log.With("scope", "kube"))
	d.pipeline = newPipeline(d.model, mesh, d.resource, log.With("scope", "pipeline"))
	d.pipeline.tell, d.pipeline.tellParents = d.verdicts.tell, d.verdicts.tellParents
	d.pipeline.failures = d.metrics.failures
	d.openPusher()
	if err := d.openDoor(); err != nil {
		return nil, err
	}
	var err error
	d.debug, err = admin.Start(admin.Config{Addr: cfg.DebugAddress, Handler: d.pages(registry), Log: log.With("scope", "admin")})
	if err != nil {
		return nil, err
	}
	if err := d.openServing(ctx); err != nil {
		d.debug.Close()
		return nil, err
	}
	return d, nil
}

// openServing opens what needs the authority.
func (d *Daemon) openServing(ctx context.Context) error {
	serving, err := d.openAuthority(ctx)
	if err != nil {
		return err
	}
	d.waits.Store(nil)
	if err := d.openWriters(serving.Config()); err != nil {
		return err
	}
	d.serve(serving)
	d.listener, err = d.door.listen(d.cfg.TLSAddress)
	return err
}

// settings are those that the model is told at the start.
func settings(cfg config.Config) model.Settings {
	revision := cfg.Revision
	if revision == "" {
		revision = "default"
	}
	return model.Settings{
		SystemNamespace: cfg.RootNamespace, Domain: cfg.Domain, TrustDomain: cfg.TrustDomain, Revisions: []string{revision},
		AllowWaypoints: cfg.AllowWaypoints,
	}
}

// XDSAddr is where proxies are served.
func (d *Daemon) XDSAddr() net.Addr { return d.listener.Addr() }

// DebugAddr is where the debug pages are.
func (d *Daemon) DebugAddr() net.Addr { return d.debug.Addrs()[0] }

// Run follows the objects and serves until the context ends, which isn't an error. Then others lead at once; whoever is still served here is
// told what changes until it has been sent to another replica, and so is the API server whether objects are valid.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer d.drain.end()
	serving := d.drain.ended
	parts := []func() error{
		func() error { return d.rpc.Serve(d.listener) },
		func() error { return d.source.run(serving) },
		func() error { return d.runWriters(ctx) },
	}
	for _, part := range append(d.authority.run, d.writers.serveHook) {
		parts = append(parts, func() error { return part(serving) })
	}
	var group sync.WaitGroup
	failures := make([]error, len(parts))
	for i, part := range parts {
		group.Go(func() {
			failures[i] = part()
			cancel(failures[i]) // none goes on without the others
		})
	}
	group.Go(func() { d.awaitTrust(ctx) })
	group.Go(func() { calm.ReturnMemory(serving, calmInterval) })
	if tokens, ok := d.door.callers.(*ca.Tokens); ok {
		if err := tokens.Check(); err != nil {
			d.log.Warn("every proxy will be refused until the tokens' public key is there; tulle token key makes a pair", "err", err)
		}
	}
	d.log.Info("control plane started", "source", d.source.name, "tls", d.XDSAddr().String(), "debug", d.DebugAddr().String(), "roots", d.cfg.State)
	<-ctx.Done()
	began := time.Now()
	d.log.Info("draining", "reason", context.Cause(ctx), "over", d.drain.over, "proxies", len(d.pusher.Status()))
	// Proxies reconnect with what they know, so there is nothing to finish for them.
	d.drain.stop(d.rpc)
	group.Wait()
	d.pusher.Wait()
	d.door.streams.Wait()
	d.debug.Close()
	if errors.Is(failures[0], grpc.ErrServerStopped) {
		failures[0] = nil // it hadn't begun
	}
	d.log.Info("stopped", "took", time.Since(began))
	return errors.Join(failures...)
}
