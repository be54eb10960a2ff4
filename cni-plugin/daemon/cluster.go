package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/enroll"
	"github.com/tulle-mesh/tulle/cni-plugin/kube"
	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/cni-plugin/proc"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// untaintPause is between attempts to take the node's taint away.
const untaintPause = 2 * time.Second

// cluster is the place of a node of Kubernetes: objects come from the API, enrolled states are annotations.
type cluster struct {
	cfg    config.Config
	log    *slog.Logger
	client *kube.Client
	events *kube.Events
	finder *proc.Finder

	looked atomic.Bool // the agent has had the right to see its DaemonSet
}

func newCluster(cfg config.Config, version string, log *slog.Logger) (*cluster, error) {
	log = log.With("scope", "kube")
	client, err := kube.New(kube.Config{Kubeconfig: cfg.Kubeconfig, Node: cfg.Node, UserAgent: "tulle-cni-agent/" + version, Log: log})
	if err != nil {
		return nil, err
	}
	return &cluster{cfg: cfg, log: log, client: client, events: client.NewEvents(), finder: proc.New(cfg.Proc)}, nil
}

func (c *cluster) follow(ctx context.Context, apply func(pods.Set)) error {
	return c.client.Follow(ctx, apply)
}

// Set is for enroll.Published.
func (c *cluster) Set(pod enroll.Pod, state status.State) error {
	return c.client.Publish(id(pod), state)
}

// Remove is for enroll.Published.
func (c *cluster) Remove(pod enroll.Pod) error { return c.client.Withdraw(id(pod)) }

// Enabled is for enroll.Published.
func (c *cluster) Enabled(pod enroll.Pod) bool { return c.client.Enabled(id(pod)) }

// Said is for enroll.Published.
func (c *cluster) Said(pod enroll.Pod) status.State { return c.client.Says(pod.UID) }

// Keep is for enroll.Published: an annotation stays until it's changed.
func (c *cluster) Keep(enroll.Pod) error { return nil }

func (c *cluster) published(views []agent.View) map[string]status.Pod {
	all := map[string]status.Pod{}
	for _, v := range views {
		if state := c.client.Says(v.UID); state != "" {
			all[v.Pod] = status.Pod{UID: v.UID, State: state}
		}
	}
	return all
}

func (c *cluster) adopted() error { return nil }

func (c *cluster) fill(a *agent.Config) {
	a.Complete, a.Notice = true, c.events.Warn
	a.Find = func(pod pods.ID, ips []netip.Addr) (string, error) { return c.finder.Find(pod.UID, ips) }
	a.Left = func(pod pods.ID) bool { return c.client.Says(pod.UID) != "" }
}

// look makes sure that the agent will know when it is the last.
func (c *cluster) look(ctx context.Context) {
	_, err := c.client.Uninstalled(ctx, c.cfg.Namespace, c.cfg.DaemonSet)
	c.looked.Store(err == nil)
	if err == nil {
		c.log.Info("the CNI plugin goes with its DaemonSet", "daemonset", c.cfg.DaemonSet)
	} else if ctx.Err() == nil {
		c.log.Warn("when the agent is uninstalled, the CNI plugin will stay: let the agent's account get its DaemonSet", "err", err)
	}
}

func (c *cluster) run(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	if c.cfg.ConfDir != "" {
		c.look(ctx)
	}
	for {
		err := c.client.Untaint(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		c.log.Warn("the node may stay closed to pods", "err", err)
		select {
		case <-time.After(untaintPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// leave takes rights that the agent had, and hasn't any more, for those of an agent that is being uninstalled: account and
// role go with the DaemonSet, in any order.
func (c *cluster) leave(ctx context.Context) (bool, error) {
	c.events.Close()
	gone, err := c.client.Uninstalled(ctx, c.cfg.Namespace, c.cfg.DaemonSet)
	if errors.Is(err, kube.ErrDenied) && c.looked.Load() {
		return true, nil
	}
	return gone, err
}
