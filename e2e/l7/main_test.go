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
	"os/exec"
	"path/filepath"
	"strings"
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
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // when Kubernetes has to be built
	defer cancel()
	err := install(ctx)
	if mesh != nil {
		defer func() {
			if err := mesh.Down(); err != nil {
				code = complain(err)
			}
		}()
	}
	if err == nil {
		code = m.Run()
	} else {
		code = complain(err)
	}
	if code != 0 && mesh != nil {
		fmt.Println("what is known of the cluster is in", logs)
		if err := mesh.Collect(logs); err != nil {
			complain(err)
		}
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
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
	charts := exec.CommandContext(ctx, "go", "run", "github.com/tulle-mesh/tulle/deploy/charts", "-version", cluster.Version, "-from", "../../deploy/charts", "-to", dir)
	if out, err := charts.CombinedOutput(); err != nil {
		return fmt.Errorf("charts: %w\n%s", err, out)
	}
	tool, err := cluster.Tool(ctx, "helm", say)
	if err != nil {
		return err
	}
	for _, part := range [][2]string{{"base", "istio-base"}, {"istiod-lite", "istiod"}, {"cni-plugin", "istio-cni"}, {"ztunnel", "ztunnel"}} {
		found, err := filepath.Glob(filepath.Join(dir, part[0]+"-*.tgz"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("chart %s: found %q (%w)", part[0], found, err)
		}
		cmd := mesh.Command(ctx, filepath.Join(tool, "helm"), "install", part[1], found[0], "-n", "istio-system", "--create-namespace", "--wait", "--timeout", "180s")
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err = mesh.Do(cmd.Start); err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return fmt.Errorf("helm install %s: %w: %s", part[1], err, out.String())
		}
	}
	return nil
}
