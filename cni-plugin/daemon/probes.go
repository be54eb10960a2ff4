package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// openNode opens the network namespace that the kubelet probes pods from.
func (d *daemon) openNode() (err error) {
	if d.cfg.NodeNetns != "" {
		if d.node, err = socket.OpenNetns(d.cfg.NodeNetns); err != nil {
			return fmt.Errorf("the node's: %w: is the node's /proc at %s, and has the agent CAP_SYS_PTRACE?", err, d.cfg.Proc)
		}
	}
	d.probes, err = redirect.NewProbes(d.node, d.log.With("scope", "probes"))
	return err
}

func (d *daemon) probesMayFail(err error) {
	d.log.Error("the kubelet's probes of pods in the mesh may fail, will retry", "err", err)
}

// watchProbes mends what others change in the node's rules: firewalls and network plugins are fond of flushing.
func (d *daemon) watchProbes(ctx context.Context) {
	ticker := time.NewTicker(verifyInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := d.probes.Mend(); err != nil {
				d.probesMayFail(err)
			}
		case <-ctx.Done():
			return
		}
	}
}
