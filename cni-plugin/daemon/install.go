package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tulle-mesh/tulle/cni-plugin/install"
)

const taskPlugin = "CNI plugin in the runtime's configuration"

// install prepares the installation of the plugin, if one is wished for. The agent is ready once it's done.
func (d *daemon) install() {
	if d.cfg.ConfDir == "" {
		return
	}
	d.ready.Begin(taskPlugin)
	d.installer = install.New(install.Config{
		Plugin: d.cfg.Plugin, BinDir: d.cfg.BinDir, ConfDir: d.cfg.ConfDir, Log: d.log.With("scope", "install"),
		Settings: install.Settings{RunDir: filepath.Dir(d.cfg.PluginSocket), Excluded: d.cfg.ExcludedNamespaces(), System: d.cfg.Namespace},
		Done:     d.installed,
	})
}

// installed takes in how an installation went.
func (d *daemon) installed(err error) {
	if err != nil {
		d.ready.Begin(taskPlugin)
		d.metrics.installs.WithLabelValues("FAILURE").Inc()
		return
	}
	d.ready.Done(taskPlugin)
	d.metrics.installs.WithLabelValues("SUCCESS").Inc()
}

// leave takes away what was installed if no agent comes after this one. The pods stay as they are in any case.
func (d *daemon) leave(ctx context.Context) {
	last, err := d.place.leave(ctx)
	if err != nil {
		d.log.Warn("it isn't known whether another agent follows, so the CNI plugin stays installed", "err", err)
	}
	if !last {
		return
	}
	if err := d.probes.Remove(); err != nil {
		d.log.Error("rules for the kubelet's probes stay in the node", "err", err)
	}
	if d.installer == nil {
		return
	}
	if err := d.installer.Remove(); err != nil {
		d.log.Error("the CNI plugin stays installed: no pod can start until it is taken out by hand", "err", err)
		return
	}
	for _, file := range []string{d.cfg.ZDSSocket, d.cfg.PluginSocket, stateFile(d.cfg)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Error("a file stays on the node", "err", err)
		}
	}
	if err := d.engines.Leave(); err != nil {
		d.log.Error("a folder stays on the node", "err", err)
	}
	d.log.Info("the CNI plugin is removed, since the agent is uninstalled")
}
