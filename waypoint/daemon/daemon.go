// Package daemon wires a waypoint together and runs it.
package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/calm"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/revocation"
	"github.com/tulle-mesh/tulle/mesh/spans"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/config"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

// The readiness tasks, named as operators know them.
const (
	taskState       = "configuration"
	taskCertificate = "certificate"
)

const (
	// calmInterval is how often it is looked whether a burst is over.
	calmInterval = 4 * time.Second
	// keysTimeout bounds the fetch of an issuer's keys, whatever the issuer says.
	keysTimeout = 30 * time.Second
)

// Run serves until a signal drains it, and returns when everything has ended. The log goes to out. An error means that it could not
// begin.
func Run(cfg config.Config, version string, out io.Writer) error {
	d := drain.New(cfg.DrainTimeout)
	var watching sync.WaitGroup
	watching.Go(func() { d.Signals(context.Background()) })
	defer watching.Wait()
	defer d.Force("ended")
	return runUntil(d, cfg, version, out)
}

// runUntil is Run until d drains.
func runUntil(d *drain.Drain, cfg config.Config, version string, out io.Writer) error {
	levels, err := telemetry.ParseLevels(cfg.Log.Levels)
	if err != nil {
		return fmt.Errorf("RUST_LOG: %w", err)
	}
	writer := telemetry.NewWriter(out)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = writer.Close(ctx) // a log that nobody reads holds up no end
	}()
	log := telemetry.NewLogger(writer, cfg.Log.Format, levels)
	log.Info("waypoint begins", "version", version, "identity", cfg.Identity.String(), "pod", cfg.Self.Name, "workers", cfg.Workers)
	calm.Headroom(gcMost)
	if limit := calm.LimitMemory(); limit > 0 {
		log.Info("memory is limited", "bytes", limit)
	}
	ca, closeCA, err := authority(cfg, log)
	if err != nil {
		return err
	}
	defer closeCA()
	workers, err := worker.Start(cfg.Workers)
	if err != nil {
		return err
	}
	defer worker.Close(workers)
	access := telemetry.NewAccessLog(writer, cfg.Log.Format, levels)
	w := newWaypoint(d, cfg, ca, workers, access, log)
	telemetry.RegisterProcess(w.reg, "waypoint", version)
	w.reg.MustRegister(writer.Collector())
	writer.OnDrop(func(lines uint64) { log.Warn("log lines lost: their reader is too slow", "lines", lines) })
	w.metrics.LogAccess(access)
	tracer, endSpans, err := spans.Begin(cfg.Tracing, w.reg, log)
	if err != nil {
		return err
	}
	defer endSpans()
	w.metrics.Trace(tracer)
	return w.run(levels)
}

// waypoint is the running program.
type waypoint struct {
	cfg     config.Config
	drain   *drain.Drain
	reg     *prometheus.Registry
	ready   admin.Readiness
	store   *state.Store
	keys    *jwt.Keys
	builder *table.Builder // of rules; only the control plane's client uses it
	rules   atomic.Pointer[table.Table]
	access  *telemetry.AccessLog
	certs   *certs.Manager
	tls     mtls.Policy // of all tunnels
	metrics *telemetry.Metrics
	open    *balance.Open // connections to workloads
	workers []*worker.Worker
	lines   []*line // one on each worker
	log     *slog.Logger
}

func newWaypoint(d *drain.Drain, cfg config.Config, ca certs.CA, workers []*worker.Worker, access *telemetry.AccessLog, log *slog.Logger) *waypoint {
	reg := prometheus.NewRegistry()
	w := &waypoint{
		cfg: cfg, drain: d, reg: reg, store: state.NewStore(), certs: certs.NewManager(ca, log, cfg.SecretTTL),
		tls: revocation.Policy(cfg.Security, telemetry.NewCRL(reg)), metrics: telemetry.NewMetrics(reg), open: new(balance.Open), workers: workers, access: access, log: log,
	}
	w.keys = jwt.NewKeys(&http.Client{Timeout: keysTimeout}, log.With("scope", "jwt"))
	w.builder = table.NewBuilder(cfg.Self.Namespace+"/"+cfg.Gateway.Name, cfg.Gateway.Class, w.keys)
	w.rules.Store(w.builder.Table())
	for _, worker := range workers {
		w.lines = append(w.lines, newLine(w, worker))
	}
	w.ready.Begin(taskState)
	w.ready.Begin(taskCertificate)
	return w
}

// run goes through the life of the program: servers, certificate and configuration, connections, drain.
func (w *waypoint) run(levels *telemetry.Levels) error {
	defer w.keys.Close()
	defer w.closeLines()
	closeServers, err := w.startServers(levels)
	if err != nil {
		return err
	}
	defer closeServers()
	ctx, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	if err := revocation.Follow(ctx, &background, w.cfg.Security.CRL, w.tls.Revocations, w.cutRevoked, w.log); err != nil {
		return err
	}
	known, err := w.followState(ctx, &background)
	if err != nil {
		return err
	}
	w.certs.Set([]identity.Workload{w.cfg.Identity})
	if path := controlplane.RootFile(w.cfg.Plane.CA.RootCA); path != "" && w.cfg.Plane.CA.Address != "" {
		background.Go(func() { w.certs.FollowRoots(ctx, path) })
	}
	background.Go(func() { _ = w.certs.Run(ctx) }) // it only ends with ctx
	background.Go(func() { w.follow(ctx) })
	background.Go(func() { calm.ReturnMemory(ctx, calmInterval) })
	background.Go(func() { keepHeadroom(ctx) })
	background.Go(func() { w.awaitCertificate(ctx) })
	select {
	case <-known:
		w.log.Info("the configuration is known")
	case <-w.drain.Draining().Done():
		return nil
	}
	return w.takeConnections()
}

// takeConnections serves until the drain begins, and drains: clients are told to go elsewhere, what runs may end.
func (w *waypoint) takeConnections() error {
	door, err := w.listen()
	if err != nil {
		return err
	}
	w.ready.Done(taskState)
	<-w.drain.Draining().Done()
	w.log.Info("drain", "reason", context.Cause(w.drain.Draining()), "deadline", w.cfg.DrainTimeout)
	door.close()
	w.drainLines(w.drain.Forced())
	if reason := context.Cause(w.drain.Forced()); reason != nil {
		w.log.Warn("drain forced", "reason", reason)
	}
	return nil
}

// awaitCertificate makes the program ready to prove itself.
func (w *waypoint) awaitCertificate(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := w.certs.Get(ctx, w.cfg.Identity); err == nil {
			w.ready.Done(taskCertificate)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // the manager tries again by itself
		}
	}
}

// self is the waypoint as the control plane describes it, or nil.
func (w *waypoint) self(t *state.Table) *state.Workload {
	return t.ByPod(w.cfg.Self.Namespace, w.cfg.Self.Name, w.cfg.Self.ServiceAccount)
}
