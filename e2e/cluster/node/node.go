// Package node is the first process of a node: it makes a machine of a network namespace and runs the node's programs there, again
// whenever one ends. When it is killed, the kernel ends all that is on the node.
package node

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/cgroup"
)

// node is one of a cluster.
type node struct {
	cluster.Spec
	number int
	groups []cgroup.Hierarchy
}

// Run becomes a node of the cluster in a folder, and doesn't return unless that fails. It must be the first process of a process
// namespace, with a mount namespace of its own.
func Run(dir string, number int) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("this is how e2e/cluster starts a node; by hand, use: make cluster-up")
	}
	runtime.LockOSThread() // The group namespace belongs to this thread and to what it starts.
	spec, err := cluster.ReadSpec(dir)
	if err != nil {
		return err
	}
	n := &node{Spec: spec, number: number}
	for _, step := range []func() error{n.enterGroups, n.mountSystem, n.mountDisk, n.mountKernel, n.writeFiles} {
		if err := step(); err != nil {
			return fmt.Errorf("node %s: %w", n.name(), err)
		}
	}
	return n.serve()
}

func (n *node) name() string { return n.NodeName(n.number) }

// path is a place in the node's folder, which is made if it isn't there.
func (n *node) path(name string) (string, error) {
	path := filepath.Join(n.NodeDir(n.number), name)
	return path, os.MkdirAll(path, 0o755)
}

// enterGroups makes groups of its own the node's root in every hierarchy.
func (n *node) enterGroups() (err error) {
	if n.groups, err = cgroup.List(); err != nil {
		return err
	}
	for _, h := range n.groups {
		if err := h.Enter(n.NodeGroup(n.number)); err != nil {
			return fmt.Errorf("control groups: %w", err)
		}
	}
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	return syscall.Sethostname([]byte(n.name()))
}
