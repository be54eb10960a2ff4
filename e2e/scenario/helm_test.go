package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// soon is how long an installation may take until all of it is ready.
const soon = time.Minute

const system = "istio-system"

// part is a chart, and the release that its README makes of it.
type part struct{ chart, release string }

// parts are in the order in which they are installed.
var parts = []part{{"base", "istio-base"}, {"istiod-lite", "istiod"}, {"cni-plugin", "istio-cni"}, {"ztunnel", "ztunnel"}}

// took is how long Helm took to install all parts until they were ready.
var took time.Duration

// installMesh installs the charts as docs/install.md says.
func installMesh(ctx context.Context) error {
	dir, err := packaged(ctx, cluster.Version)
	if err != nil {
		return err
	}
	began := time.Now()
	for _, p := range parts {
		if err := p.run(ctx, "install", dir, "--create-namespace"); err != nil {
			return err
		}
	}
	took = time.Since(began)
	return nil
}

// uninstallMesh takes the releases away, the last one first.
func uninstallMesh(ctx context.Context) error {
	var errs []error
	for _, p := range slices.Backward(parts) {
		errs = append(errs, helm(ctx, "uninstall", p.release, "-n", system, "--ignore-not-found", "--wait"))
	}
	return errors.Join(errs...)
}

// packaged makes the charts of a version, and returns their folder.
func packaged(ctx context.Context, version string) (string, error) {
	dir := filepath.Join(work, "charts-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "github.com/tulle-mesh/tulle/deploy/charts", "-version", version, "-from", "../../deploy/charts", "-to", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("charts: %w\n%s", err, out)
	}
	return dir, nil
}

// run installs or upgrades a part, from a folder of packages, and waits until it is ready.
func (p part) run(ctx context.Context, verb, dir string, more ...string) error {
	found, err := filepath.Glob(filepath.Join(dir, p.chart+"-*.tgz"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("chart %s: found %q in %s (%w)", p.chart, found, dir, err)
	}
	args := []string{verb, p.release, found[0], "-n", system, "--wait", "--timeout", "90s"}
	if mesh.Given() && p.chart != "base" {
		args = append(args, "--set", "global.hub="+os.Getenv("HUB"), "--set", "global.tag="+os.Getenv("TAG"))
	}
	return helm(ctx, append(args, more...)...)
}

// helm runs Helm as people do.
func helm(ctx context.Context, args ...string) error {
	dir, err := cluster.Tool(ctx, "helm", say)
	if err != nil {
		return err
	}
	cmd := mesh.Command(ctx, append([]string{filepath.Join(dir, "helm")}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = mesh.Do(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

func TestHelmInstallsTheMeshWithinAMinute(t *testing.T) {
	t.Logf("all charts were ready after %s", took.Round(time.Second/10))
	if took > soon {
		t.Errorf("it took %s until all was ready, want %s at most", took, soon)
	}
	for _, p := range parts[1:] {
		status, err := kubectl(t.Context(), "-n", system, "get", "secret", "-l", "owner=helm,status=deployed,name="+p.release, "-o", "name")
		if err != nil || status == "" {
			t.Errorf("release %s isn't deployed: %q %v", p.release, status, err)
		}
	}
}

// changed is a default of the next version that isn't this one's.
const changed = "terminationGracePeriodSeconds: 20"

// nextVersion makes the charts of a version that differs from this one in one default.
func nextVersion(t *testing.T, version string) string {
	t.Helper()
	dir, err := packaged(t.Context(), version)
	if err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Glob(filepath.Join(dir, "ztunnel-*.tgz"))
	if err != nil || len(file) != 1 {
		t.Fatal(file, err)
	}
	shell(t, `set -e; cd "$1"; tar xzf "$2"; grep -q "^terminationGracePeriodSeconds: 30$" ztunnel/values.yaml
		sed -i "s/^terminationGracePeriodSeconds: 30$/$3/" ztunnel/values.yaml; tar czf "$2" ztunnel; rm -r ztunnel`, dir, file[0], changed)
	return dir
}

func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// runs tells which image and grace period ztunnel has.
func runs(t *testing.T) string {
	t.Helper()
	got, err := kubectl(t.Context(), "-n", system, "get", "daemonset", "ztunnel", "-o",
		"jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.terminationGracePeriodSeconds}")
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAnUpgradeAndItsRollbackLoseNoRequest(t *testing.T) {
	if mesh.Given() {
		t.Skip("its registry has images of one version")
	}
	const next = "next"
	if err := load(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	dir := nextVersion(t, next)
	before := runs(t)
	after := strings.Replace(strings.Replace(before, ":"+cluster.Version+" ", ":"+next+" ", 1), " 30", " 20", 1)
	loseNothing(t, func(ctx context.Context) {
		for _, p := range parts {
			if err := p.run(ctx, "upgrade", dir); err != nil {
				t.Fatal(err)
			}
		}
		if got := runs(t); got != after || got == before {
			t.Errorf("after the upgrade ztunnel is %s, want %s", got, after)
		}
	})
	loseNothing(t, func(ctx context.Context) {
		for _, p := range slices.Backward(parts) {
			if err := helm(ctx, "rollback", p.release, "-n", system, "--wait", "--timeout", "90s"); err != nil {
				t.Fatal(err)
			}
		}
		if got := runs(t); got != before {
			t.Errorf("after the rollback ztunnel is %s, want %s", got, before)
		}
	})
}
