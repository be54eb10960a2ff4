// Package daemon wires the node agent together.
package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/enroll"
	"github.com/tulle-mesh/tulle/cni-plugin/install"
	"github.com/tulle-mesh/tulle/cni-plugin/plugin"
	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/status"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// verifyInterval is how often every pod's namespace is compared with what it should be.
const verifyInterval = 10 * time.Second

// sweepInterval is how often it is looked whether pods have left anything.
const sweepInterval = 30 * time.Second

const taskObjects = "objects of the node" // what readiness waits for

// daemon is a running agent.
type daemon struct {
	cfg       config.Config
	log       *slog.Logger
	proxies   *zds.Server
	engines   *redirect.Engines
	node      *socket.Netns // nil for the agent's own
	probes    *redirect.Probes
	place     place
	agent     *agent.Agent
	installer *install.Installer // nil if nothing is to be installed
	metrics   *metrics
	ready     admin.Readiness
	loaded    chan struct{} // closed when what was enrolled before is adopted
}

// place is where pods come from and where it is said that they are enrolled: a folder or a cluster.
type place interface {
	// follow hands on what there is, as agent.Source.
	follow(ctx context.Context, apply func(pods.Set)) error
	enroll.Published
	// published returns what is said, by name of the pods.
	published([]agent.View) map[string]status.Pod
	// adopted is told when all that was enrolled before is known. Its error ends the agent.
	adopted() error
	// fill adds to the agent's configuration what is different here.
	fill(*agent.Config)
	// run does what else is to do here until the context ends. ready is closed when pods can be taken in.
	run(ctx context.Context, ready <-chan struct{}) error
	// leave is told that the agent ends, and returns whether what it has installed must go, too.
	leave(context.Context) (bool, error)
}

// Run runs the agent until ctx ends. Pods stay enrolled when it ends.
func Run(ctx context.Context, cfg config.Config, version string, logs io.Writer) error {
	levels, err := telemetry.ParseLevels(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	d, err := newDaemon(cfg, version, telemetry.NewLogger(logs, cfg.LogFormat, levels))
	if err != nil {
		return err
	}
	defer d.node.Close()
	health, err := admin.Start(admin.Config{Addr: cfg.HealthAddr, Handler: d.pages(levels), Log: d.log})
	if err != nil {
		return err
	}
	defer health.Close()
	if cfg.MetricsAddr != "" {
		metrics, err := admin.Start(admin.Config{Addr: cfg.MetricsAddr, Handler: d.metricsPage(), Log: d.log})
		if err != nil {
			return err
		}
		defer metrics.Close()
	}
	d.log.Info("node agent starts", "version", version, "node", cfg.Node, "source", cfg.Source)
	err = d.run(ctx)
	d.leave(context.WithoutCancel(ctx))
	d.log.Info("node agent ends; its pods stay as they are", "err", err)
	return err
}

func newDaemon(cfg config.Config, version string, log *slog.Logger) (*daemon, error) {
	d := &daemon{
		cfg: cfg, log: log, loaded: make(chan struct{}),
		proxies: zds.NewServer(log.With("scope", "zds")),
	}
	err := d.openNode()
	if err != nil {
		return nil, err
	}
	d.engines, err = redirect.New(redirect.Config{Engine: cfg.Engine, Pins: cfg.Pins, Node: d.node, Log: log.With("scope", "redirect")})
	if err != nil {
		return nil, err
	}
	if d.place, err = newPlace(cfg, version, log); err != nil {
		return nil, err
	}
	d.ready.Begin(taskObjects)
	d.install()
	d.metrics = newMetrics(d, version)
	d.proxies.OnListeners(d.engines.Listen)
	d.proxies.SendsDNS(cfg.DNSCapture)
	agentConfig := agent.Config{
		Node: cfg.Node, Log: log.With("scope", "agent"), Verify: verifyInterval, Loaded: d.adopted, Source: d.place.follow,
		Rules: pods.Rules{Excluded: cfg.ExcludedNamespaces(), System: cfg.Namespace, DNS: cfg.DNSCapture},
	}
	d.place.fill(&agentConfig)
	enroller := enroll.New(enroll.Config{
		Proxies: d.proxies, Redirect: d.engines, Probes: d.probes, Statuses: d.place, Log: log.With("scope", "enroll"),
		WithdrawGrace: cfg.WithdrawGrace, DrainTimeout: cfg.DrainTimeout,
		Repaired: func(pod enroll.Pod, found redirect.Found) {
			d.metrics.repairs.Inc()
			if agentConfig.Notice != nil {
				agentConfig.Notice(id(pod), "CaptureRepaired", "somebody had changed the pod's network namespace so that it wasn't captured, but "+found.String())
			}
		},
	})
	agentConfig.Actions = actions(enroller)
	d.agent = agent.New(agentConfig, stateFile(cfg))
	return d, nil
}

// stateFile is where the agent remembers where pods live, until the machine's next start.
func stateFile(cfg config.Config) string {
	dir := cfg.Status
	if cfg.Source == config.Kubernetes {
		dir = filepath.Dir(cfg.PluginSocket)
	}
	return filepath.Join(dir, "."+cfg.Node+".netns")
}

func newPlace(cfg config.Config, version string, log *slog.Logger) (place, error) {
	if cfg.Source == config.Kubernetes {
		return newCluster(cfg, version, log)
	}
	return folder{enroll.NewStatuses(cfg.Status, cfg.Node), cfg.Dir, log.With("scope", "agent")}, nil
}

// id is a pod without its namespace.
func id(p enroll.Pod) pods.ID {
	return pods.ID{UID: p.UID, Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount}
}

func actions(e *enroll.Enroller) agent.Actions {
	pod := func(p pods.ID, at agent.Home, how pods.Capture) enroll.Pod {
		w := zds.Workload{UID: p.UID, Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount}
		return enroll.Pod{Workload: w, Netns: at.Netns, IPs: at.IPs, How: redirect.How(how)}
	}
	return agent.Actions{
		Adopt: func(p pods.ID, at agent.Home, how pods.Capture, wanted bool) (bool, error) {
			return e.Adopt(pod(p, at, how), wanted)
		},
		Enrol: func(ctx context.Context, p pods.ID, at agent.Home, how pods.Capture) error {
			return e.Enrol(ctx, pod(p, at, how))
		},
		Unenrol: func(ctx context.Context, p pods.ID, at agent.Home) error {
			return e.Unenrol(ctx, pod(p, at, pods.Capture{}))
		},
		Forget: func(ctx context.Context, p pods.ID) error { return e.Forget(ctx, pod(p, agent.Home{}, pods.Capture{})) },
	}
}

// adopted comes when every pod that was enrolled before is known: only now may proxies take a snapshot, and may the
// status file be replaced.
func (d *daemon) adopted() error {
	if err := d.probes.Open(); err != nil {
		d.probesMayFail(err)
	}
	if err := d.place.adopted(); err != nil {
		return err
	}
	d.ready.Done(taskObjects)
	close(d.loaded)
	return nil
}

func (d *daemon) run(ctx context.Context) error {
	plugins, err := plugin.Listen(d.cfg.PluginSocket) // before anything is touched that another agent may look after
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.agent.Run(ctx) })
	group.Go(func() error { return plugin.Serve(ctx, plugins, d.verbs(), d.log.With("scope", "plugin")) })
	group.Go(func() error {
		select {
		case <-d.loaded:
			return d.proxies.Serve(ctx, d.cfg.ZDSSocket)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		d.retryAfterSnapshots(ctx)
		return nil
	})
	group.Go(func() error { return d.place.run(ctx, d.loaded) })
	group.Go(func() error {
		d.watchProbes(ctx)
		return nil
	})
	group.Go(func() error {
		d.sweep(ctx)
		return nil
	})
	if d.installer != nil {
		group.Go(func() error { return d.installer.Run(ctx) })
	}
	return group.Wait()
}

// sweep removes, now and then, what pods that have ended have left on the node.
func (d *daemon) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := d.engines.Sweep(); err != nil {
				d.log.Error("programs of pods that are gone stay in the kernel, will retry", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// retryAfterSnapshots takes in at once, when a proxy comes back, the pods that wait for one.
func (d *daemon) retryAfterSnapshots(ctx context.Context) {
	for {
		select {
		case <-d.proxies.Snapshots():
			d.agent.Retry()
		case <-ctx.Done():
			return
		}
	}
}
