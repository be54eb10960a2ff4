// Package daemon wires the node agent together.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/enroll"
	"github.com/tulle-mesh/tulle/cni-plugin/plugin"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/status"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// verifyInterval is how often every pod's namespace is compared with what it should be.
const verifyInterval = 10 * time.Second

const taskObjects = "objects of the node" // what readiness waits for

// daemon is a running agent.
type daemon struct {
	cfg      config.Config
	log      *slog.Logger
	proxies  *zds.Server
	statuses *enroll.Statuses
	agent    *agent.Agent
	ready    admin.Readiness
	loaded   chan struct{} // closed when what was enrolled before is adopted
}

// Run runs the agent until ctx ends. Pods stay enrolled when it ends.
func Run(ctx context.Context, cfg config.Config, version string, logs io.Writer) error {
	levels, err := telemetry.ParseLevels(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	d, err := newDaemon(cfg, telemetry.NewLogger(logs, cfg.LogFormat, levels))
	if err != nil {
		return err
	}
	health, err := admin.Start(admin.Config{Addr: cfg.HealthAddr, Handler: d.pages(levels), Log: d.log})
	if err != nil {
		return err
	}
	defer health.Close()
	d.log.Info("node agent starts", "version", version, "node", cfg.Node, "dir", cfg.Dir)
	err = d.run(ctx)
	d.log.Info("node agent ends; its pods stay as they are", "err", err)
	return err
}

func newDaemon(cfg config.Config, log *slog.Logger) (*daemon, error) {
	engines, err := redirect.New(redirect.Config{Engine: cfg.Engine, Pins: cfg.Pins, Log: log.With("scope", "redirect")})
	if err != nil {
		return nil, err
	}
	d := &daemon{
		cfg: cfg, log: log, loaded: make(chan struct{}),
		proxies:  zds.NewServer(log.With("scope", "zds")),
		statuses: enroll.NewStatuses(cfg.Status, cfg.Node),
	}
	d.ready.Begin(taskObjects)
	d.proxies.OnListeners(engines.Listen)
	enroller := enroll.New(enroll.Config{
		Proxies: d.proxies, Redirect: engines, Statuses: d.statuses, Log: log.With("scope", "enroll"),
		WithdrawGrace: cfg.WithdrawGrace, DrainTimeout: cfg.DrainTimeout, DNS: cfg.DNSCapture,
	})
	d.agent = agent.New(agent.Config{
		Node: cfg.Node, Dir: cfg.Dir, Log: log.With("scope", "agent"),
		Actions: actions(enroller), Verify: verifyInterval, Loaded: d.adopted,
	}, filepath.Join(cfg.Status, "."+cfg.Node+".netns"))
	return d, nil
}

func actions(e *enroll.Enroller) agent.Actions {
	pod := func(p agent.Pod, ns *socket.Netns) enroll.Pod {
		w := zds.Workload{UID: p.UID, Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount}
		return enroll.Pod{Workload: w, Netns: ns}
	}
	return agent.Actions{
		Adopt: func(p agent.Pod, ns *socket.Netns, wanted bool) (bool, error) { return e.Adopt(pod(p, ns), wanted) },
		Enrol: func(ctx context.Context, p agent.Pod, ns *socket.Netns) error { return e.Enrol(ctx, pod(p, ns)) },
		Unenrol: func(ctx context.Context, p agent.Pod, ns *socket.Netns) error {
			return e.Unenrol(ctx, pod(p, ns))
		},
		Forget: func(ctx context.Context, p agent.Pod) error { return e.Forget(ctx, pod(p, nil)) },
	}
}

// adopted comes when every pod that was enrolled before is known: only now may proxies take a snapshot, and may the
// status file be replaced.
func (d *daemon) adopted() error {
	if err := d.statuses.Open(); err != nil {
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
	return group.Wait()
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

// verbs answers the CNI plugin.
func (d *daemon) verbs() plugin.Handler {
	return plugin.Handler{
		Add: func(ctx context.Context, r plugin.Request) (plugin.Reply, error) {
			enrolled, err := d.agent.Started(ctx, r.PodNamespace, r.PodName, r.Netns)
			return plugin.Reply{Enrolled: enrolled && err == nil}, err
		},
		Check: func(ctx context.Context, r plugin.Request) error {
			return d.agent.Verify(ctx, r.PodNamespace, r.PodName)
		},
		Del: func(ctx context.Context, r plugin.Request) error {
			return d.agent.Stopped(ctx, r.PodNamespace, r.PodName)
		},
		Ready: func() error {
			if pending := d.ready.Pending(); len(pending) > 0 {
				return errors.New("the node agent isn't ready yet")
			}
			return nil
		},
	}
}

// pages are served at the health address.
func (d *daemon) pages(levels *telemetry.Levels) http.Handler {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return admin.Pages("tulle-cni-agent on "+d.cfg.Node, append([]admin.Page{
		{Path: "/healthz", Title: "alive", Handler: ok},
		{Path: "/readyz", Title: "ready to take pods in", Handler: &d.ready},
		{Path: "/metrics", Title: "metrics", Handler: http.HandlerFunc(d.metrics)},
		admin.JSON("/debug/pods", "pods of this node, and why they are in the mesh or not", func() any { return d.view() }),
		admin.Logging(admin.Levels{Get: levels.String, Set: levels.Set, Reset: levels.Reset}),
	}, admin.Profiles()...))
}

// view is the debug page.
type view struct {
	Proxies   int                   `json:"proxies"` // connected
	Pods      []agent.View          `json:"pods"`
	Published map[string]status.Pod `json:"published"`
}

func (d *daemon) view() view {
	return view{Proxies: d.proxies.Connected(), Pods: d.agent.Views(), Published: d.statuses.All()}
}

// metrics counts from the same view that people see.
func (d *daemon) metrics(w http.ResponseWriter, _ *http.Request) {
	v := d.view()
	count := map[string]int{}
	failing := 0
	for _, pod := range v.Pods {
		count[pod.State]++
		if pod.Error != "" {
			failing++
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# TYPE tulle_cni_pods gauge\n")
	for _, state := range agent.States() {
		fmt.Fprintf(w, "tulle_cni_pods{state=%q} %d\n", state, count[state])
	}
	fmt.Fprintf(w, "# TYPE tulle_cni_pods_failing gauge\ntulle_cni_pods_failing %d\n", failing)
	fmt.Fprintf(w, "# TYPE tulle_cni_proxies_connected gauge\ntulle_cni_proxies_connected %d\n", v.Proxies)
}
