// Package install puts the CNI plugin where the container runtime finds it, and keeps it there: the program in the folder of
// plugins, and its entry at the end of the chain that the cluster's own network plugin has set up, whichever that is.
//
// What has to be done is a pure function of what there is (plan.go). The program comes first and goes last, and every file
// is replaced by a rename, so a runtime never finds half of anything.
package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// maxFile bounds a configuration, in bytes, and maxFiles how many are looked at.
	maxFile, maxFiles = 1 << 20, 256
	// maxProgram bounds the plugin.
	maxProgram = 256 << 20
	// resync is how often it is looked without a notice.
	resync = 5 * time.Second
	// pause is between two changes: others write in several steps.
	pause = 20 * time.Millisecond
	// rival is how many changes within a minute say that somebody takes the plugin out again and again.
	rival = 5
)

// Config says what to install where.
type Config struct {
	Plugin   string // the program to copy
	BinDir   string // the runtime's folder of plugins
	ConfDir  string // the runtime's folder of network configurations
	Settings Settings
	Log      *slog.Logger
	// Done is told of each installation, with its error, and of one that is found done at the start; nil where nobody asks.
	Done func(error)
}

// Installer keeps the plugin installed.
type Installer struct {
	cfg       Config
	installed atomic.Bool

	// Of the goroutine of Run.
	trouble string
	changes []time.Time // of the last minute
	warned  bool
}

// New makes an Installer, which does nothing before Run.
func New(cfg Config) *Installer { return &Installer{cfg: cfg} }

// Installed tells that the plugin was in place at the last look.
func (i *Installer) Installed() bool { return i.installed.Load() }

// Run installs the plugin and installs it again when somebody changes the folders, until the context ends. Then
// everything stays. What can't be installed at present is said in the log, and tried again.
func (i *Installer) Run(ctx context.Context) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the runtime's folders: %w", err)
	}
	defer notices.Close()
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	for {
		i.watch(notices) // before looking, so that nothing is missed
		i.look()
		select {
		case <-ticker.C:
		case <-notices.Events:
			if !rest(ctx, pause) {
				return nil
			}
		case err := <-notices.Errors:
			i.cfg.Log.Warn("watch the runtime's folders", "err", err)
		case <-ctx.Done():
			return nil
		}
		drain(notices.Events)
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func drain(events chan fsnotify.Event) {
	for {
		select {
		case <-events:
		default:
			return
		}
	}
}

// watch asks for notices, again: a folder may have been made anew.
func (i *Installer) watch(notices *fsnotify.Watcher) {
	for _, dir := range []string{i.cfg.ConfDir, i.cfg.BinDir} {
		if err := notices.Add(dir); err != nil {
			i.cfg.Log.Debug("folder can't be watched", "dir", dir, "err", err)
		}
	}
}

// look installs what is missing.
func (i *Installer) look() {
	changed, err := i.Install()
	before := i.installed.Swap(err == nil)
	if (changed || err != nil || !before) && i.cfg.Done != nil {
		i.cfg.Done(err)
	}
	if changed {
		i.contested(time.Now())
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	switch {
	case trouble != "" && trouble != i.trouble:
		i.cfg.Log.Error("the CNI plugin isn't installed, new pods of this node aren't in the mesh", "err", err)
	case trouble == "" && (changed || i.trouble != ""):
		i.cfg.Log.Info("the CNI plugin is installed", "configurations", i.cfg.ConfDir, "plugins", i.cfg.BinDir)
	}
	i.trouble = trouble
}

// contested warns of somebody who takes the plugin out again and again.
func (i *Installer) contested(now time.Time) {
	i.changes = append(i.changes, now)
	for now.Sub(i.changes[0]) > time.Minute {
		i.changes = i.changes[1:]
	}
	if len(i.changes) > rival && !i.warned {
		i.warned = true
		i.cfg.Log.Warn("somebody else changes the network configuration again and again; with Cilium, set cni.exclusive=false", "configurations", i.cfg.ConfDir)
	}
}

// Install puts everything in place, and tells whether anything had to be changed.
func (i *Installer) Install() (changed bool, err error) {
	copied, err := i.copyPlugin()
	if err != nil {
		return false, fmt.Errorf("copy the CNI plugin: %w", err)
	}
	folder, err := readFolder(i.cfg.ConfDir)
	if err != nil {
		return copied, err
	}
	change, err := Plan(folder, i.cfg.Settings)
	if err != nil {
		return copied, fmt.Errorf("%s: %w", i.cfg.ConfDir, err)
	}
	return copied || !change.Empty(), apply(i.cfg.ConfDir, change)
}

// Remove takes the plugin out of the configurations, and then its program away.
func (i *Installer) Remove() error {
	folder, err := readFolder(i.cfg.ConfDir)
	if err != nil {
		return err
	}
	if err := apply(i.cfg.ConfDir, Undo(folder)); err != nil {
		return err
	}
	i.installed.Store(false)
	if err := os.Remove(filepath.Join(i.cfg.BinDir, pluginType)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the CNI plugin: %w", err)
	}
	return nil
}

func (i *Installer) copyPlugin() (changed bool, err error) {
	program, err := readFile(i.cfg.Plugin, maxProgram)
	if err != nil {
		return false, err
	}
	to := filepath.Join(i.cfg.BinDir, pluginType)
	if info, err := os.Stat(to); err == nil && info.Size() == int64(len(program)) && info.Mode().Perm()&0o111 != 0 {
		if there, err := readFile(to, maxProgram); err == nil && bytes.Equal(there, program) {
			return false, nil
		}
	}
	return true, replace(to, program, 0o755)
}

// readFolder reads what a runtime, or we, may look at.
func readFolder(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the network configurations: %w", err)
	}
	var folder []File
	for _, entry := range entries {
		if entry.IsDir() || !runtimes(entry.Name()) && !strings.HasSuffix(entry.Name(), backupSuffix) {
			continue
		}
		if len(folder) == maxFiles {
			return nil, fmt.Errorf("%s has more than %d network configurations", dir, maxFiles)
		}
		data, err := readFile(filepath.Join(dir, entry.Name()), maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read the network configurations: %w", err)
		}
		folder = append(folder, File{Name: entry.Name(), Data: data})
	}
	return folder, nil
}

func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s isn't a regular file", path)
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), most)
	}
	return os.ReadFile(path)
}

func apply(dir string, change Change) error {
	for _, file := range change.Write {
		if err := replace(filepath.Join(dir, file.Name), file.Data, 0o600); err != nil {
			return fmt.Errorf("change the network configuration: %w", err)
		}
	}
	for _, name := range change.Remove {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("change the network configuration: %w", err)
		}
	}
	return nil
}

// replace writes a file at once, with the mode of the one that it replaces if there is one; a program's mode is always ours.
func replace(path string, data []byte, mode fs.FileMode) (err error) {
	if info, err := os.Stat(path); err == nil && mode&0o111 == 0 {
		mode = info.Mode().Perm()
	}
	// A fixed name, so that what an interrupted run has left is overwritten. Runtimes don't look at it.
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tulle_new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()) // synced: it must survive the machine going down
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}
