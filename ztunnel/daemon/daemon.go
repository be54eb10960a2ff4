// Package daemon wires a ztunnel together and runs it.
package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/calm"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/file"
	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/policy"
	"github.com/tulle-mesh/tulle/mesh/revocation"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/spans"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/mesh/xds"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

// The readiness tasks, named as operators know them.
const (
	taskState = "state manager"
	taskPods  = "workload proxy manager"
)

// Run serves the node's pods until a signal drains it, and returns when everything has ended. The log goes to out. An
// error means that it could not begin, or could not go on.
func Run(cfg config.Config, version string, out io.Writer) error {
	d := drain.New(cfg.DrainTimeout)
	var watching sync.WaitGroup
	watching.Go(func() { d.Signals(context.Background()) })
	defer watching.Wait()
	defer d.Force("ended")
	return serve(d, cfg, version, out)
}

// serve is Run until d drains.
func serve(d *drain.Drain, cfg config.Config, version string, out io.Writer) error {
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
	announce(log, cfg, version)
	calm.Headroom(gcPercent)
	if limit := calm.LimitMemory(); limit > 0 {
		log.Info("memory is limited", "bytes", limit)
	}
	if err := checkPrivileges(&cfg, log); err != nil {
		return err
	}
	ca, closeCA, err := authority(cfg, log)
	if err != nil {
		return err
	}
	defer closeCA()
	workers, err := worker.Start(max(1, cfg.Threads-1)) // one thread is for all that isn't on the path of bytes
	if err != nil {
		return err
	}
	defer worker.Close(workers)
	z := newZtunnel(d, cfg, ca, workers, log)
	z.version = version
	telemetry.RegisterProcess(z.reg, "ztunnel", version)
	z.reg.MustRegister(writer.Collector())
	writer.OnDrop(func(lines uint64) { log.Warn("log lines lost: their reader is too slow", "lines", lines) })
	z.metrics.LogAccess(telemetry.NewAccessLog(writer, cfg.Log.Format, levels))
	tracer, endSpans, err := spans.Begin(cfg.Tracing, z.reg, log)
	if err != nil {
		return err
	}
	defer endSpans()
	z.metrics.Trace(tracer)
	return z.run(levels)
}

func announce(log *slog.Logger, cfg config.Config, version string) {
	log.Info("ztunnel begins", "version", version, "node", cfg.Node, "cluster", cfg.ClusterID, "threads", cfg.Threads)
	for _, r := range cfg.Refused {
		log.Warn("setting refused", "variable", r.Name, "reason", r.Reason)
	}
}

// ztunnel is the running program.
type ztunnel struct {
	shared
	version string
	started time.Duration // by handover.Now
	drain   *drain.Drain
	reg     *prometheus.Registry
	ready   admin.Readiness
	pending atomic.Pointer[[]enroll.Pod] // for config_dump only
	pods    *pods
	xds     *xds.Client // nil until followState, and with a local file
}

func newZtunnel(d *drain.Drain, cfg config.Config, ca certs.CA, workers []*worker.Worker, log *slog.Logger) *ztunnel {
	reg := prometheus.NewRegistry()
	z := &ztunnel{started: handover.Now(), drain: d, reg: reg, shared: shared{cfg: cfg, workers: workers, store: state.NewStore(), metrics: telemetry.NewMetrics(reg), open: new(balance.Open), log: log}}
	for range workers {
		z.reserves = append(z.reserves, h2.NewReserve(stalledBytes(len(workers))))
	}
	counts := telemetry.NewPods(reg)
	z.sockets, z.refused = loop.NewSupply(podSockets()), counts.Refused
	z.store.Prefer(cfg.DNS.Preferred)
	z.store.Prepare(policy.Prepare)
	z.certs = certs.NewManager(ca, log, cfg.SecretTTL)
	z.tls = revocation.Policy(cfg.Security, telemetry.NewCRL(reg))
	z.node = newNames(cfg, z.store, telemetry.NewDNS(reg), log)
	if cfg.OnDemand && cfg.XDS.Address != "" {
		z.demand = demand.New(demand.Config{
			Ask:    func(names ...string) { z.xds.Ask(state.AddressType, names...) },
			Forget: func(names ...string) { z.xds.Forget(state.AddressType, names...) },
			Table:  z.store.Load,
			Drop: func(names ...string) {
				_ = z.store.Apply(state.Update{RemovedAddresses: names}) // there is nothing in it to refuse
			},
		})
	}
	z.pods = newPods(z.shared, counts)
	z.ready.Begin(taskState)
	if cfg.Proxying {
		z.ready.Begin(taskPods)
	}
	return z
}

// run goes through the life of the program: servers, state of the mesh, pods, drain.
func (z *ztunnel) run(levels *telemetry.Levels) error {
	closeServers, err := z.startServers(levels)
	if err != nil {
		return err
	}
	defer closeServers()
	ctx, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	if err := revocation.Follow(ctx, &background, z.cfg.Security.CRL, z.tls.Revocations, z.pods.cutRevoked, z.log); err != nil {
		return err
	}
	ready, err := z.followState(ctx, &background)
	if err != nil {
		return err
	}
	if path := controlplane.RootFile(z.cfg.CA.RootCA); path != "" && z.cfg.CA.Address != "" {
		background.Go(func() { z.certs.FollowRoots(ctx, path) })
	}
	background.Go(func() { _ = z.certs.Run(ctx) }) // it only ends with ctx
	background.Go(func() { z.pods.follow(ctx) })
	background.Go(func() { calm.ReturnMemory(ctx, calmInterval) })
	background.Go(func() { z.demand.Run(ctx) })
	select {
	case <-ready:
		z.ready.Done(taskState)
		z.log.Info("the state of the mesh is known")
	case <-z.drain.Draining().Done():
		z.logDrain()
		return nil
	}
	return z.servePods()
}

// servePods serves the pods that the mode names until the drain begins, and drains.
func (z *ztunnel) servePods() error {
	err := z.startPods()
	if err != nil {
		z.drain.Force(err.Error()) // whoever restarts us ends the disagreement with the agent
	}
	<-z.drain.Draining().Done()
	z.logDrain()
	z.pods.drain(z.drain.Forced())
	if reason := context.Cause(z.drain.Forced()); reason != nil {
		z.log.Warn("drain forced", "reason", reason)
	}
	return err
}

// startPods serves the only workload of dedicated mode, or those that the node agent names; that is followed until the
// drain begins.
func (z *ztunnel) startPods() error {
	self, only := z.cfg.Self, z.cfg.Workload
	switch {
	case !z.cfg.Proxying:
		return nil
	case only != (config.Workload{}):
		if err := z.pods.start(enroll.Pod{UID: "dedicated", Name: only.Name, Namespace: only.Namespace, ServiceAccount: only.ServiceAccount}); err != nil {
			return fmt.Errorf("serve the workload of PROXY_WORKLOAD_INFO: %w", err)
		}
		z.podStatus(enroll.Status{Active: 1, Ready: true})
		return nil
	case self.Name != "" && self.Namespace != "" && self.ServiceAccount != "":
		if err := z.pods.startOwn(self); err != nil {
			return err
		}
	}
	return enroll.Run(z.drain.Draining(), enroll.Config{
		Socket: z.cfg.ZDS, Start: z.pods.start, Stop: z.pods.stop, Share: z.pods.share, Leave: z.pods.leave, Status: z.podStatus, Started: z.started, DNS: z.cfg.DNS.Capture, Log: z.log.With("scope", "enroll"),
	})
}

func (z *ztunnel) logDrain() {
	z.log.Info("drain", "reason", context.Cause(z.drain.Draining()), "deadline", z.cfg.DrainTimeout)
}

// followState keeps the store filled, and returns a channel that is closed when it is for the first time.
func (z *ztunnel) followState(ctx context.Context, background *sync.WaitGroup) (<-chan struct{}, error) {
	if z.cfg.LocalXDS != (settings.Local{}) {
		return z.followLocal(ctx, background)
	}
	conn, err := connect(z.cfg, z.cfg.XDS, z.log)
	if err != nil {
		return nil, fmt.Errorf("XDS_ADDRESS: %w", err)
	}
	identity, err := describeNode(z.cfg)
	if err != nil {
		conn.Close()
		return nil, err
	}
	z.xds = subscribe(conn, identity, z.shared, telemetry.NewXDS(z.reg))
	background.Go(func() {
		defer conn.Close()
		_ = z.xds.Run(ctx) // it only ends with ctx
	})
	return z.xds.Ready(), nil
}

// followLocal is followState from a file or a text.
func (z *ztunnel) followLocal(ctx context.Context, background *sync.WaitGroup) (<-chan struct{}, error) {
	ready := make(chan struct{})
	close(ready)
	if text := z.cfg.LocalXDS.Inline; text != "" {
		update, err := state.Read([]byte(text))
		if err == nil {
			err = z.store.Apply(update)
		}
		if err != nil {
			return nil, fmt.Errorf("LOCAL_XDS: %w", err)
		}
		return ready, nil
	}
	from := &local{path: z.cfg.LocalXDS.Path, store: z.store, log: z.log}
	seen := file.Look(from.path)
	if err := from.load(); err != nil {
		return nil, err
	}
	background.Go(func() {
		if err := seen.Follow(ctx, from.reload); err != nil {
			z.log.Error("changes of LOCAL_XDS_PATH go unnoticed", "err", err)
		}
	})
	return ready, nil
}

// podStatus reports how far the pods are.
func (z *ztunnel) podStatus(status enroll.Status) {
	z.pods.counts.Active.Set(float64(status.Active))
	z.pods.counts.Pending.Set(float64(len(status.Pending)))
	z.pending.Store(&status.Pending)
	if status.Ready {
		z.ready.Done(taskPods)
	} else {
		z.ready.Begin(taskPods)
	}
}
