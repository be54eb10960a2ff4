package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// collecting may take this long.
const collecting = 30 * time.Second

var errGiven = errors.New("the cluster was given by KUBECONFIG, and its nodes aren't ours to stop")

// Get returns the cluster that KUBECONFIG names, whose nodes pull images as HUB/name:TAG; or, unless all three are set, a new one as Up does.
func Get(ctx context.Context, config Config) (*Cluster, error) {
	for _, name := range []string{"KUBECONFIG", "HUB", "TAG"} {
		if os.Getenv(name) == "" {
			return Up(ctx, config)
		}
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		return nil, fmt.Errorf("for the cluster of KUBECONFIG: %w", err)
	}
	c := &Cluster{given: true}
	out, err := c.Kubectl(ctx, "", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return nil, err
	}
	if c.others = strings.Fields(out); len(c.others) < config.Nodes {
		return nil, fmt.Errorf("the cluster of KUBECONFIG has the nodes %q, the tests need %d", c.others, config.Nodes)
	}
	return c, nil
}

// Nodes are the names of the cluster's nodes.
func (c *Cluster) Nodes() []string {
	if c.given {
		return c.others
	}
	var names []string
	for node := range c.each() {
		names = append(names, c.spec.NodeName(node))
	}
	return names
}

// Unused refuses a cluster that was given with some of the namespaces in it, which the tests would take away, or with a mesh of its owner's.
func (c *Cluster) Unused(ctx context.Context, namespaces ...string) error {
	args := append([]string{"get", "namespaces", "--ignore-not-found", "-o", "name", System}, namespaces...)
	found, err := c.Kubectl(ctx, "", args...)
	if err == nil && found != "" {
		err = fmt.Errorf("the tests remove these from a cluster, and it has them already: %q", strings.Fields(found))
	}
	return err
}

// Given tells that the cluster isn't ours: its nodes can't be stopped.
func (c *Cluster) Given() bool { return c.given }

// Collect writes all that is known of a cluster into a folder: its objects, its pods' logs, and those of its nodes.
func (c *Cluster) Collect(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), collecting)
	defer cancel()
	errs := []error{os.RemoveAll(dir)} // what is known of an earlier one
	for node := range c.each() {
		name := c.spec.NodeName(node)
		errs = append(errs, os.MkdirAll(filepath.Join(dir, name), 0o755))
		logs, err := filepath.Glob(filepath.Join(c.spec.NodeDir(node), "log", "*"))
		errs = append(errs, err)
		for _, log := range append(logs, filepath.Join(c.spec.NodeDir(node), "node.log")) {
			text, err := os.ReadFile(log)
			errs = append(errs, err, os.WriteFile(filepath.Join(dir, name, filepath.Base(log)), text, 0o644))
		}
	}
	if c.given || c.fabric != nil {
		_, err := c.Kubectl(ctx, "", "cluster-info", "dump", "--all-namespaces", "--output=yaml", "--output-directory="+dir)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
