package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// ErrUp says that a cluster is running in the folder.
var ErrUp = errors.New("a demo is up already")

// record is what the state file holds: all that has to be undone, written before it's done.
type record struct {
	Spec       Spec       `json:"spec"`
	Kept       bool       `json:"kept"` // left up on purpose by its maker
	Namespaces []string   `json:"namespaces"`
	Processes  []*Process `json:"processes"`
}

const (
	stateFile = "state.json"
	lockFile  = "lock"
)

// lock makes this process the owner of a run folder for as long as it lives or until the file is closed.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the run folder: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrUp
		}
		return nil, fmt.Errorf("lock the run folder: %w", err)
	}
	return file, nil
}

// load reads the state file of a run folder; fs.ErrNotExist if there is none. It must have been written for this very
// folder, since clear removes what it names: a copy of it elsewhere says nothing about what is there.
func load(dir string) (*record, error) {
	file := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Spec.Dir != dir {
		return nil, fmt.Errorf("%s is that of a demo in %s: move it back there, or remove the copy", file, r.Spec.Dir)
	}
	return r, nil
}

func (r *record) save() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.Spec.Dir, stateFile), data, 0o644)
}

// running tells whether any program of the cluster is alive.
func (r *record) running() bool {
	return slices.ContainsFunc(r.Processes, (*Process).Alive)
}

// clear ends every process, removes every namespace, and then the run folder. It goes on after an error, so that one
// thing that can't be removed doesn't keep the others, and it may be repeated.
func (r *record) clear(ctx context.Context) error {
	var errs []error
	// Programs first, in one go: those of pods and nodes have nothing to hand over any more. Those that a crash kept
	// out of the file, or that somebody started by hand, are found by the namespace they are in.
	processes := append(r.Processes, inside(r.Namespaces)...)
	ended := make(chan error)
	for _, p := range processes {
		go func() { ended <- p.end(ctx, 2*time.Second) }()
	}
	for range processes {
		errs = append(errs, <-ended)
	}
	for _, name := range r.Namespaces {
		errs = append(errs, wire.Remove(filepath.Join(wire.Dir, name)))
	}
	for _, node := range r.Spec.Nodes {
		errs = append(errs, wire.Unmount(r.Spec.pins(node)))
	}
	if err := errors.Join(errs...); err != nil {
		return err // The state file stays, for the next attempt.
	}
	if err := os.RemoveAll(r.Spec.Dir); err != nil {
		return fmt.Errorf("remove the run folder: %w", err)
	}
	return nil
}

// inside lists the processes that live in any of the named namespaces.
func inside(namespaces []string) []*Process {
	ours := map[uint64]bool{}
	for _, name := range namespaces {
		var stat unix.Stat_t
		if unix.Stat(filepath.Join(wire.Dir, name), &stat) == nil {
			ours[stat.Ino] = true
		}
	}
	var out []*Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		var stat unix.Stat_t
		if unix.Stat(filepath.Join(dir, "ns/net"), &stat) != nil || !ours[stat.Ino] {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() { // Our own thread may be there for a moment.
			continue
		}
		if start, err := startTime(pid); err == nil {
			out = append(out, &Process{Name: "process " + strconv.Itoa(pid), Pid: pid, Start: start})
		}
	}
	return out
}

// CleanUp removes what a cluster in the folder has left: after a crash, or after it was kept. It is ErrUp while
// another process owns the cluster; found tells whether there was one.
func CleanUp(ctx context.Context, dir string) (found bool, err error) {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); errors.Is(err, fs.ErrNotExist) {
		return false, nil // not there, or not a demo's
	}
	owner, err := lock(dir)
	if err != nil {
		return true, err
	}
	defer owner.Close()
	r, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) { // It crashed before it made anything.
		os.Remove(filepath.Join(dir, lockFile))
		os.Remove(dir)
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("read what is to be removed: %w", err)
	}
	return true, r.clear(ctx)
}

// writeFile replaces a file in one step, so that nobody reads half of it.
func writeFile(path string, data []byte, mode os.FileMode) error {
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(fresh, data, mode); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
