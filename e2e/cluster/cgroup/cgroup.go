// Package cgroup keeps the processes of a node in control groups of their own: one of the same path in each of the machine's hierarchies.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hierarchy is a tree of control groups.
type Hierarchy struct {
	Dir     string // where it is mounted
	Options string // that it is mounted with: the controllers of one of version 1; "" for version 2
}

// List returns the machine's hierarchies.
func List() ([]Hierarchy, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return list(groups, mounts)
}

// list reads two tables of the kernel's: see cgroups(7) and proc_pid_mountinfo(5).
func list(groups, mounts []byte) ([]Hierarchy, error) {
	var found []Hierarchy
	second := false
	for lines := bufio.NewScanner(bytes.NewReader(groups)); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3) // number, controllers, path
		if len(parts) < 3 {
			return nil, fmt.Errorf("/proc/self/cgroup has the line %q", lines.Text())
		}
		if dir := mounted(mounts, parts[1]); dir != "" {
			found = append(found, Hierarchy{dir, parts[1]})
			second = second || parts[1] == ""
		}
	}
	if !second {
		return nil, errors.New("control groups of version 2 aren't mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
	}
	return found, nil
}

// mounted is where the hierarchy with these controllers is, "" if nowhere.
func mounted(mounts []byte, controllers string) string {
	for lines := bufio.NewScanner(bytes.NewReader(mounts)); lines.Scan(); {
		mount, system, _ := strings.Cut(lines.Text(), " - ")
		where, what := strings.Fields(mount), strings.Fields(system)
		if len(where) < 5 || len(what) < 3 {
			continue
		}
		has := strings.Split(what[2], ",")
		lacks := func(controller string) bool { return !slices.Contains(has, controller) }
		switch {
		case controllers == "" && what[0] == "cgroup2":
			return where[4]
		case controllers != "" && what[0] == "cgroup" && !slices.ContainsFunc(strings.Split(controllers, ","), lacks):
			return where[4]
		}
	}
	return ""
}

// Enter makes the group of a path, and those above it, and moves this process there.
func (h Hierarchy) Enter(path string) error {
	dir := h.Dir
	for _, name := range strings.Split(path, "/") {
		if err := h.Delegate(dir); err != nil {
			return err
		}
		parent := dir
		dir = filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := h.inherit(parent, dir); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// Delegate lets the groups below a group have its controllers, which in version 1 they have anyway.
func (h Hierarchy) Delegate(dir string) error {
	if h.Options != "" {
		return nil
	}
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("let groups below %s control %s: %w", dir, controller, err)
		}
	}
	return nil
}

// inherit gives a group its parent's processors, without which it can have no process.
func (h Hierarchy) inherit(parent, dir string) error {
	if h.Options != "cpuset" && !strings.Contains(","+h.Options+",", ",cpuset,") {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0)
}

// Processes are those of exactly the group of a path.
func Processes(path string) ([]int, error) {
	h, err := unified()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(h.Dir, path, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, err
}

func unified() (Hierarchy, error) {
	all, err := List()
	if err != nil {
		return Hierarchy{}, err
	}
	return all[slices.IndexFunc(all, func(h Hierarchy) bool { return h.Options == "" })], nil
}

// patience is how long the kernel may take to end killed processes.
const patience = 20 * time.Second

// Remove kills every process of the groups of a path and below, and removes them. Nothing there is no error.
func Remove(path string) error {
	all, err := List()
	if err != nil {
		return err
	}
	for _, h := range all {
		if h.Options == "" {
			kill := filepath.Join(h.Dir, path, "cgroup.kill")
			if err := os.WriteFile(kill, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("kill the processes of %s: %w", path, err)
			}
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var errs []error
		for _, h := range all {
			errs = append(errs, remove(filepath.Join(h.Dir, path)))
		}
		err := errors.Join(errs...)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// remove removes a group and those below it, the lowest first.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := remove(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
