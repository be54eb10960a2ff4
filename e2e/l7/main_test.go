// Package l7 tests what Istio's own tests of ambient mode ask of a waypoint, by their names: on a real Kubernetes of two nodes (e2e/cluster), with the mesh as
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
	}, m.Run, nil))
}

func say(line string) { fmt.Println("  " + line) }

// install makes a cluster, the mesh on it, and the apps with their waypoints.
func install(ctx context.Context) (err error) {
	if mesh, err = cluster.Up(ctx, cluster.Config{Nodes: 2, Logs: logs, Say: say}); err != nil {
		return err
	}
	images, err := cluster.Images(ctx, cluster.Version, say)
	if err != nil {
		return err
	}
	echo, err := cluster.ProgramImage(ctx, "e2e/conformance/echo")
	if err != nil {
		return err
	}
	if err := mesh.Load(ctx, append(images, echo)...); err != nil {
		return err
	}
	if err := installMesh(ctx); err != nil {
		return err
	}
	if err := apply(ctx, apps); err != nil {
		return err
	}
	var errs []error
	for _, namespace := range []string{"shop", "elsewhere", "plain"} {
		_, err := kubectl(ctx, "-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
		errs = append(errs, err)
	}
	_, err = kubectl(ctx, "-n", "shop", "wait", "--for=condition=Programmed", "gateway", "--all", "--timeout=120s")
	return errors.Join(append(errs, err)...)
}

// installMesh installs the charts as docs/install.md says.
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
	for _, part := range cluster.Parts {
		if err := mesh.Install(ctx, part, "install", dir, "--create-namespace"); err != nil {
			return err
		}
	}
	return nil
}
