package scenario

import (
	"context"
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

const system = cluster.System

// took is how long Helm took to install all parts until they were ready.
var took time.Duration

// installMesh installs the charts.
func installMesh(ctx context.Context) error {
	dir, err := packaged(ctx, cluster.Version)
	if err != nil {
		return err
	}
	began := time.Now()
	err = mesh.InstallMesh(ctx, dir)
	took = time.Since(began)
	return err
}

// packaged makes the charts of a version, and returns their folder.
func packaged(ctx context.Context, version string) (string, error) {
	dir := filepath.Join(work, "charts-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := cluster.Package(ctx, version, dir); err != nil {
		return "", err
	}
	return dir, nil
}

func TestHelmInstallsTheMeshWithinAMinute(t *testing.T) {
	t.Logf("all charts were ready after %s", took.Round(time.Second/10))
	if took > soon {
		t.Errorf("it took %s until all was ready, want %s at most", took, soon)
	}
	for _, p := range cluster.Parts[1:] {
		status, err := kubectl(t.Context(), "-n", system, "get", "secret", "-l", "owner=helm,status=deployed,name="+p.Release, "-o", "name")
		if err != nil || status == "" {
			t.Errorf("release %s isn't deployed: %q %v", p.Release, status, err)
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
	archives, err := cluster.Images(t.Context(), next, say)
	if err != nil {
		t.Fatal(err)
	}
	if err := mesh.Load(t.Context(), archives...); err != nil {
		t.Fatal(err)
	}
	dir := nextVersion(t, next)
	before := runs(t)
	after := strings.Replace(strings.Replace(before, ":"+cluster.Version+" ", ":"+next+" ", 1), " 30", " 20", 1)
	loseNothing(t, func(ctx context.Context) {
		for _, p := range cluster.Parts {
			if err := mesh.Install(ctx, p, "upgrade", dir); err != nil {
				t.Fatal(err)
			}
		}
		if got := runs(t); got != after || got == before {
			t.Errorf("after the upgrade ztunnel is %s, want %s", got, after)
		}
	})
	loseNothing(t, func(ctx context.Context) {
		for _, p := range slices.Backward(cluster.Parts) {
			if err := mesh.Helm(ctx, "rollback", p.Release, "-n", system, "--wait", "--timeout", "90s"); err != nil {
				t.Fatal(err)
			}
		}
		if got := runs(t); got != before {
			t.Errorf("after the rollback ztunnel is %s, want %s", got, before)
		}
	})
}
