package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// waypoint is the suite's namespace before the suite comes to it, with a waypoint.
//
//go:embed waypoint.yaml
var waypoint string

// installMesh applies the manifest that is made of the charts, which has Gateway API's definitions, and makes the waypoint.
func installMesh(ctx context.Context, c *cluster.Cluster) error {
	dir, err := os.MkdirTemp("", "tulle-charts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say("installing the mesh")
	charts := exec.CommandContext(ctx, "go", "run", "./deploy/charts", "-version", cluster.Version, "-from", "deploy/charts", "-to", dir)
	if out, err := charts.CombinedOutput(); err != nil {
		return fmt.Errorf("charts: %w\n%s", err, out)
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "tulle.yaml"))
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, string(manifest), "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	for _, program := range []string{"deployment/istiod", "daemonset/istio-cni-node", "daemonset/ztunnel"} {
		if _, err := c.Kubectl(ctx, "", "-n", "istio-system", "rollout", "status", program, "--timeout=120s"); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, waypoint, "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "", "-n", "gateway-conformance-mesh", "wait", "--for=condition=Programmed", "gateway/namespace", "--timeout=120s")
	return err
}
