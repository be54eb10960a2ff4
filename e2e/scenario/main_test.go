// Package scenario tests the mesh as people live with it, installed by Helm on a real Kubernetes of two nodes: see e2e/cluster.
package scenario

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
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
	// Parallel tests come after all others, which would disturb them, and wait for pods more than they work: four at a time on any machine.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
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
	c, err := cluster.Get(ctx, cluster.Config{Nodes: 2, Logs: logs, Say: say, Images: images})
	if err != nil {
		return err
	}
	if err := c.Unused(ctx, "meshed", "plain", "busy"); err != nil {
		return errors.Join(err, c.Down())
	}
	mesh, nodes = c, c.Nodes() // which is left without all that is installed from here on
	if err := installMesh(ctx); err != nil {
		return err
	}
	return installApps(ctx)
}

// images are those of the mesh.
func images(ctx context.Context) ([]string, error) { return cluster.Images(ctx, cluster.Version, say) }

// uninstall removes everything from a cluster that stays.
func uninstall() error {
	if !mesh.Given() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, err := mesh.Kubectl(ctx, apps, "delete", "--ignore-not-found", "-f", "-")
	return errors.Join(err, mesh.UninstallMesh(ctx))
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
