package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// System is the namespace of the mesh.
const System = "istio-system"

// Part is a chart of the mesh, and the release that its README makes of it.
type Part struct{ Chart, Release string }

// Parts are in the order in which they are installed.
var Parts = []Part{{"base", "istio-base"}, {"istiod-lite", "istiod"}, {"cni-plugin", "istio-cni"}, {"ztunnel", "ztunnel"}}

// Package puts the charts of a version into a folder. It is called in a folder of the same depth as the tests' packages.
func Package(ctx context.Context, version, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "run", "github.com/tulle-mesh/tulle/deploy/charts", "-version", version, "-from", "../../deploy/charts", "-to", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("charts: %w\n%s", err, out)
	}
	return nil
}

// Install installs, or upgrades by the verb, a part from a folder of packages, and waits until it is ready.
func (c *Cluster) Install(ctx context.Context, p Part, verb, dir string, more ...string) error {
	found, err := filepath.Glob(filepath.Join(dir, p.Chart+"-*.tgz"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("chart %s: found %q in %s (%w)", p.Chart, found, dir, err)
	}
	args := []string{verb, p.Release, found[0], "-n", System, "--wait", "--timeout", "180s"}
	if c.given && p.Chart != "base" {
		args = append(args, "--set", "global.hub="+os.Getenv("HUB"), "--set", "global.tag="+os.Getenv("TAG"))
	}
	return c.Helm(ctx, append(args, more...)...)
}

// InstallMesh installs all parts from a folder of packages, as docs/install.md says.
func (c *Cluster) InstallMesh(ctx context.Context, dir string) error {
	for _, p := range Parts {
		if err := c.Install(ctx, p, "install", dir, "--create-namespace"); err != nil {
			return err
		}
	}
	return nil
}

// UninstallMesh takes all parts away, the last one first, and what they leave in other namespaces; but not the definitions of kinds, which
// others may use.
func (c *Cluster) UninstallMesh(ctx context.Context) error {
	var errs []error
	for _, p := range slices.Backward(Parts) {
		errs = append(errs, c.Helm(ctx, "uninstall", p.Release, "-n", System, "--ignore-not-found", "--wait"))
	}
	_, err := c.Kubectl(ctx, "", "delete", "namespace", System, "--ignore-not-found")
	errs = append(errs, err)
	_, err = c.Kubectl(ctx, "", "delete", "configmap", "-A", "--field-selector=metadata.name=istio-ca-root-cert")
	return errors.Join(append(errs, err)...)
}

// Helm runs Helm as people do. It has to be built already, or is without a word.
func (c *Cluster) Helm(ctx context.Context, args ...string) error {
	dir, err := Tool(ctx, "helm", func(string) {})
	if err != nil {
		return err
	}
	cmd := c.Command(ctx, append([]string{filepath.Join(dir, "helm")}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = c.Do(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// Tests runs those of a package on a cluster, and returns what its process exits with. Up makes the cluster, with all that the tests need; if that
// fails it returns the cluster nevertheless, if there is one. Down takes off it what would stay; nil for nothing. What is known of a cluster whose
// tests have failed is put into the folder for logs.
func Tests(logs string, up func() (*Cluster, error), run func() int, down func() error) (code int) {
	complain := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := up()
	if c != nil {
		defer func() {
			var left error
			if down != nil {
				left = down()
			}
			if err := errors.Join(left, c.Down()); err != nil {
				code = complain(err)
			}
		}()
	}
	if err == nil {
		code = run()
	} else {
		code = complain(err)
	}
	if code != 0 && c != nil {
		fmt.Println("what is known of the cluster is in", logs)
		if err := c.Collect(logs); err != nil {
			complain(err)
		}
	}
	return code
}
