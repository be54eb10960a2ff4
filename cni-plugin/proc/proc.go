// Package proc finds the network namespaces of running pods by what the kernel says of their processes, without asking the
// container runtime.
package proc

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	// fresh is how long a look at all processes counts: many pods are looked for at a time.
	fresh = 500 * time.Millisecond
	// maxFile bounds what is read of a process's file, in bytes.
	maxFile = 64 << 10
)

// Finder looks through a folder such as /proc. It is safe for concurrent use.
type Finder struct {
	dir string

	mu    sync.Mutex
	seen  map[string][]process // by pod uid, the oldest process first
	until time.Time
}

// process is one that runs in a network namespace of its own.
type process struct {
	path    string // of its namespace
	id      socket.NetnsID
	started uint64 // ticks since the machine's start
}

// New looks in dir, where the node's processes are: /proc, or where it is mounted.
func New(dir string) *Finder { return &Finder{dir: dir} }

// Find returns the path of a pod's network namespace, "" if no process of the pod has one. A namespace counts as the pod's
// if one of its addresses is on an interface there, for a process of one pod may have gone into the namespace of another.
// Of several the one with the oldest process is the pod's, for a process may make a namespace of its own.
func (f *Finder) Find(uid string, ips []netip.Addr) (string, error) {
	candidates, err := f.processes(uid)
	if err != nil {
		return "", err
	}
	for _, p := range candidates {
		has, err := hasAddress(p, ips)
		if err == nil && has {
			return p.path, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return "", err
		}
	}
	return "", nil
}

func (f *Finder) processes(uid string) ([]process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Now().After(f.until) {
		seen, err := scan(f.dir)
		if err != nil {
			return nil, err
		}
		f.seen, f.until = seen, time.Now().Add(fresh)
	}
	return f.seen[uid], nil
}

// scan looks at all processes.
func scan(dir string) (map[string][]process, error) {
	host, err := netnsAt(filepath.Join(dir, "1", "ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("look at the node's processes: %w: is the node's /proc at %s?", err, dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the node's processes: %w", err)
	}
	seen := map[string][]process{}
	for _, entry := range entries {
		if _, err := strconv.ParseUint(entry.Name(), 10, 32); err != nil {
			continue
		}
		at := filepath.Join(dir, entry.Name())
		p := process{path: filepath.Join(at, "ns", "net")}
		if p.id, err = netnsAt(p.path); err != nil || p.id == host {
			continue // ended, or not in a pod's network
		}
		uid, err := read(filepath.Join(at, "cgroup"), podUID)
		if err != nil || uid == "" {
			continue
		}
		if p.started, err = read(filepath.Join(at, "stat"), startTime); err != nil {
			continue
		}
		seen[uid] = append(seen[uid], p)
	}
	for uid, list := range seen {
		seen[uid] = oldest(list)
	}
	return seen, nil
}

// oldest keeps the oldest process of each namespace, in the order of their age.
func oldest(list []process) []process {
	slices.SortFunc(list, func(a, b process) int {
		return cmp.Or(cmp.Compare(a.started, b.started), strings.Compare(a.path, b.path))
	})
	known := map[socket.NetnsID]bool{}
	return slices.DeleteFunc(list, func(p process) bool {
		double := known[p.id]
		known[p.id] = true
		return double
	})
}

func netnsAt(path string) (socket.NetnsID, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return socket.NetnsID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return socket.NetnsID{Dev: uint64(stat.Dev), Ino: stat.Ino}, nil
}

func read[T any](path string, parse func(string) (T, error)) (value T, err error) {
	file, err := os.Open(path)
	if err != nil {
		return value, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return value, err
	}
	return parse(string(data))
}

// podPattern is a pod in the path of a cgroup, as the kubelet's drivers write it: kubepods/burstable/pod<uid>/<container>
// by cgroupfs, kubepods-burstable-pod<uid with _ for ->.slice by systemd. The uid of a pod that a file defines has no dashes.
var podPattern = regexp.MustCompile(`(?:^|[^0-9A-Za-z])pod([0-9a-fA-F]{8}(?:[-_]?[0-9a-fA-F]{4}){3}[-_]?[0-9a-fA-F]{12})(?:[^0-9A-Za-z]|$)`)

// podUID reads a process's cgroup file: the uid of the pod that it belongs to, "" if it's none's. The lines have the form
// hierarchy:controllers:path; of version 2 there is only one.
func podUID(text string) (string, error) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		// The last is the innermost: pods may run in pods.
		if all := podPattern.FindAllStringSubmatch(fields[2], -1); len(all) > 0 {
			return strings.ToLower(strings.ReplaceAll(all[len(all)-1][1], "_", "-")), nil
		}
	}
	return "", nil
}

// startTime reads field 22 of a process's stat file. The second, its name, is in parentheses and may have any character.
func startTime(text string) (uint64, error) {
	_, rest, ok := cutLast(text, ") ")
	fields := strings.Fields(rest)
	const index = 22 - 3 // the rest begins with the third
	if !ok || len(fields) <= index {
		return 0, errors.New("stat of a process has too few fields")
	}
	ticks, err := strconv.ParseUint(fields[index], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("start time of a process: %w", err)
	}
	return ticks, nil
}

func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}

// hasAddress looks for one of the addresses in a process's namespace.
func hasAddress(p process, ips []netip.Addr) (has bool, err error) {
	ns, err := socket.OpenNetns(p.path)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	if ns.ID() != p.id {
		return false, nil // the process is another by now
	}
	err = ns.Do(func() error {
		present, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		has = slices.ContainsFunc(present, func(a net.Addr) bool {
			prefix, ok := a.(*net.IPNet)
			if !ok {
				return false
			}
			addr, _ := netip.AddrFromSlice(prefix.IP)
			return slices.Contains(ips, addr.Unmap())
		})
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look at the addresses in %s: %w", p.path, err)
	}
	return has, nil
}
