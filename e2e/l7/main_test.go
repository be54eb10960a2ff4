// Package l7 tests what Istio's own tests of ambient mode ask of a waypoint, by their names: on a real Kubernetes of two nodes (e2e/cluster), or on one that is given, with the mesh as
// Helm installs it. A request that should pass the waypoint is only taken for one that does if the waypoint has counted it.
package l7

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
const logs = "../../bin/logs/l7"

// mesh is a cluster with the mesh and the pods of testdata/apps.yaml.
var mesh *cluster.Cluster

//go:embed testdata/apps.yaml
var apps string

// namespaces are those of the apps.
var namespaces = []string{"shop", "elsewhere", "plain"}

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("a cluster takes root, and minutes for the first time: not with -short")
		return
	}
	os.Exit(cluster.Tests(logs, func() (*cluster.Cluster, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // when Kubernetes has to be built
		defer cancel()
		err := install(ctx)
		return mesh, err
	}, m.Run, uninstall))
}

func say(line string) { fmt.Println("  " + line) }

// install makes a cluster, the mesh on it, and the apps with their waypoints.
func install(ctx context.Context) error {
	c, err := cluster.Get(ctx, cluster.Config{Nodes: 2, Logs: logs, Say: say, Images: images})
	if err != nil {
		return err
	}
	if err := c.Unused(ctx, namespaces...); err != nil {
		return errors.Join(err, c.Down())
	}
	mesh = c // which is left without all that is installed from here on
	if err := installMesh(ctx); err != nil {
		return err
	}
	if err := apply(ctx, apps); err != nil {
		return err
	}
	var errs []error
	for _, namespace := range namespaces {
		_, err := kubectl(ctx, "-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
		errs = append(errs, err)
	}
	_, err = kubectl(ctx, "-n", "shop", "wait", "--for=condition=Programmed", "gateway", "--all", "--timeout=120s")
	return errors.Join(append(errs, err)...)
}

// images are those of the mesh, and of what asks and is asked.
func images(ctx context.Context) ([]string, error) {
	archives, err := cluster.Images(ctx, cluster.Version, say)
	if err != nil {
		return nil, err
	}
	echo, err := cluster.ProgramImage(ctx, cluster.EchoProgram)
	return append(archives, echo), err
}

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

// installMesh installs the charts.
func installMesh(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tulle-l7-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := cluster.Package(ctx, cluster.Version, dir); err != nil {
		return err
	}
	if _, err := cluster.Tool(ctx, "helm", say); err != nil {
		return err
	}
	return mesh.InstallMesh(ctx, dir)
}
