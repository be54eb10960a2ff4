// Package scenario tests the mesh as people live with it, installed by Helm on a real Kubernetes of two nodes: see e2e/cluster.
package scenario

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// logs of the cluster, if a test has failed.
const logs = "../../bin/logs/scenario"

// mesh is a cluster with the mesh and the pods of testdata/apps.yaml.
var mesh *cluster.Cluster

// nodes are two of the cluster's.
var nodes []string

// work is a folder for what the tests of this package make.
var work string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("scenarios take root, and minutes for the first time: not with -short")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "tulle-scenario-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return cluster.Tests(logs, func() (*cluster.Cluster, error) {
		err := install()
		return mesh, err
	}, m.Run, uninstall)
}

func say(line string) { fmt.Println("  " + line) }

// install makes a cluster, the mesh on it, and the apps.
func install() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // when Kubernetes has to be built
	defer cancel()
	c, err := cluster.Get(ctx, cluster.Config{Nodes: 2, Logs: logs, Say: say})
	if err != nil {
		return err
	}
	if err := unused(ctx, c); err != nil {
		return errors.Join(err, c.Down())
	}
	mesh = c // which is left without all that is installed from here on
	if err := load(ctx, cluster.Version); err != nil {
		return err
	}
	out, err := kubectl(ctx, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
	if nodes = strings.Fields(out); err != nil || len(nodes) < 2 {
		return fmt.Errorf("two nodes are needed, there are %q: %w", nodes, err)
	}
	if err := installMesh(ctx); err != nil {
		return err
	}
	return installApps(ctx)
}

// unused refuses a cluster that was given with something in it that uninstall would take away, such as a mesh of its owner's.
func unused(ctx context.Context, c *cluster.Cluster) error {
	found, err := c.Kubectl(ctx, "", "get", "namespaces", system, "meshed", "plain", "busy", "--ignore-not-found", "-o", "name")
	if err == nil && found != "" {
		err = fmt.Errorf("the tests remove these from a cluster, and it has them already: %q", strings.Fields(found))
	}
	return err
}

// load gives the images of a version of the mesh to the nodes, unless they have a registry.
func load(ctx context.Context, version string) error {
	if mesh.Given() {
		return nil
	}
	images, err := cluster.Images(ctx, version, say)
	if err != nil {
		return err
	}
	return mesh.Load(ctx, images...)
}

// uninstall removes everything from a cluster that stays, but the definitions of kinds, which others may use.
func uninstall() error {
	if !mesh.Given() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, err := mesh.Kubectl(ctx, apps, "delete", "--ignore-not-found", "-f", "-")
	errs := []error{err, uninstallMesh(ctx)}
	_, err = kubectl(ctx, "delete", "namespace", system, "--ignore-not-found")
	errs = append(errs, err)
	_, err = kubectl(ctx, "delete", "configmap", "-A", "--field-selector=metadata.name=istio-ca-root-cert")
	return errors.Join(append(errs, err)...)
}

//go:embed testdata/apps.yaml
var apps string

func installApps(ctx context.Context) error {
	if err := apply(ctx, apps); err != nil {
		return err
	}
	var errs []error
	for _, namespace := range []string{"meshed", "plain", "busy"} {
		errs = append(errs, settled(ctx, namespace))
	}
	return errors.Join(errs...)
}

// settled waits until all pods of a namespace are ready.
func settled(ctx context.Context, namespace string) error {
	_, err := kubectl(ctx, "-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	return err
}
