package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

func mount(kind, dir string, flags uintptr, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(kind, dir, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, dir, err)
	}
	return nil
}

func bind(from, to string) error {
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	return nil
}

// share sets how mounts below / get to other namespaces and back.
func share(how uintptr) error {
	if err := syscall.Mount("", "/", "", how|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("change how mounts are shared: %w", err)
	}
	return nil
}

// mountSystem gives the node the /sys and /proc of its namespaces, with its own control groups and pinned BPF objects.
func (n *node) mountSystem() error {
	if err := share(syscall.MS_SLAVE); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", 0, ""); err != nil {
		return err
	}
	if err := n.mountGroups(); err != nil {
		return err
	}
	if err := mount("bpf", "/sys/fs/bpf", 0, ""); err != nil {
		return err
	}
	return mount("proc", "/proc", 0, "")
}

const groupDir = "/sys/fs/cgroup"

// mountGroups mounts every hierarchy where the machine has it. In one of version 2 only groups without groups may have processes, so the
// node's own programs get one.
func (n *node) mountGroups() error {
	if len(n.groups) > 1 {
		if err := mount("tmpfs", groupDir, 0, "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range n.groups {
		kind, dir := "cgroup", filepath.Join(groupDir, filepath.Base(h.Dir))
		if h.Options == "" {
			kind = "cgroup2"
		}
		if len(n.groups) == 1 {
			dir = groupDir
		}
		if err := mount(kind, dir, 0, h.Options); err != nil {
			return err
		}
		if h.Options != "" {
			continue
		}
		h.Dir = dir
		if err := os.MkdirAll(filepath.Join(dir, cluster.ProgramsGroup), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, cluster.ProgramsGroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
		if err := h.Delegate(dir); err != nil {
			return err
		}
	}
	return nil
}

// mountDisk puts the node's own disk over the machine's: what is written stays in its folder, from one boot to the next.
func (n *node) mountDisk() error {
	for _, dir := range []string{"etc", "opt", "var", "usr"} {
		upper, err := n.path("disk/" + dir)
		if err != nil {
			return err
		}
		work, err := n.path("work/" + dir)
		if err != nil {
			return err
		}
		lower := "/" + dir
		if dir == "usr" {
			lower = filepath.Join(n.Packages, "usr") + ":" + lower
		}
		if err := mount("overlay", "/"+dir, 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", "/run", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/netns", "/run/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// An overlay can't be the upper layer of those that containerd makes.
	for _, dir := range []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/log/pods"} {
		own, err := n.path("data/" + strings.ReplaceAll(dir[1:], "/", "-"))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := bind(own, dir); err != nil {
			return err
		}
	}
	return share(syscall.MS_SHARED)
}

// settings are the kernel's that kubelets change and no namespace has of its own.
var settings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// mountKernel lets the kubelet change files in place of the machine's settings.
func (n *node) mountKernel() error {
	dir, err := n.path("settings")
	if err != nil {
		return err
	}
	for _, name := range settings {
		file, setting := filepath.Join(dir, strings.ReplaceAll(name, "/", "-")), filepath.Join("/proc/sys", name)
		value, err := os.ReadFile(setting)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, value, 0o644); err != nil {
			return err
		}
		if err := bind(file, setting); err != nil {
			return err
		}
	}
	return nil
}
