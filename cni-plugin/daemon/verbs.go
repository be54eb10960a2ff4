package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/plugin"
)

// verbs answers the CNI plugin.
func (d *daemon) verbs() plugin.Handler {
	return plugin.Handler{
		Add: func(ctx context.Context, r plugin.Request) (plugin.Reply, error) {
			enrolled, err := d.agent.Started(ctx, d.named(r), d.seen(r.Netns), r.Addrs())
			d.metrics.request("ADD", err)
			return plugin.Reply{Enrolled: enrolled && err == nil}, err
		},
		Check: func(ctx context.Context, r plugin.Request) error {
			err := d.agent.Verify(ctx, d.named(r))
			d.metrics.request("CHECK", err)
			return err
		},
		Del: func(ctx context.Context, r plugin.Request) error {
			err := d.agent.Stopped(ctx, d.named(r), d.seen(r.Netns))
			d.metrics.request("DEL", err)
			return err
		},
		Ready: func() error {
			if pending := d.ready.Pending(); len(pending) > 0 {
				return errors.New("the node agent isn't ready yet")
			}
			return nil
		},
	}
}

// named is the pod that a request is about. Objects in a folder seldom have the uid that the runtime knows.
func (d *daemon) named(r plugin.Request) agent.Named {
	n := agent.Named{Namespace: r.PodNamespace, Name: r.PodName}
	if d.cfg.Source == config.Kubernetes {
		n.UID = r.PodUID
	}
	return n
}

// seen is the runtime's path as the agent sees it: runtimes without bound namespaces name a process.
func (d *daemon) seen(path string) string {
	if rest, ok := strings.CutPrefix(path, "/proc/"); ok {
		return filepath.Join(d.cfg.Proc, rest)
	}
	return path
}
