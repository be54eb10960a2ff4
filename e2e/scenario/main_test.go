// Package scenario tests the mesh as it is installed, on a real Kubernetes of two nodes: see e2e/cluster.
package scenario

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// logs of the cluster, if a test has failed.
const logs = "../../bin/logs/scenario"

// mesh is a cluster with the mesh and the pods of testdata/apps.yaml.
var mesh *cluster.Cluster

// nodes are two of the cluster's.
var nodes []string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("scenarios take root, and minutes for the first time: not with -short")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	err := install()
	if mesh != nil {
		defer func() {
			if err := errors.Join(uninstall(), mesh.Down()); err != nil {
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

// install makes a cluster and the mesh on it.
func install() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // when Kubernetes has to be built
	defer cancel()
	say := func(line string) { fmt.Println("  " + line) }
	if mesh, err = cluster.Get(ctx, cluster.Config{Nodes: 2, Logs: logs, Say: say}); err != nil {
		return err
	}
	if !mesh.Given() {
		images, err := cluster.Images(ctx, say)
		if err != nil {
			return err
		}
		if err := mesh.Load(ctx, images...); err != nil {
			return err
		}
	}
	out, err := kubectl(ctx, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
	if nodes = strings.Fields(out); err != nil || len(nodes) < 2 {
		return fmt.Errorf("two nodes are needed, there are %q: %w", nodes, err)
	}
	if err := installMesh(ctx); err != nil {
		return err
	}
	for _, program := range []string{"deployment/istiod", "daemonset/istio-cni-node", "daemonset/ztunnel"} {
		if _, err := kubectl(ctx, "-n", "istio-system", "rollout", "status", program, "--timeout=90s"); err != nil {
			return err
		}
	}
	return installApps(ctx)
}

// installMesh applies the manifest that is made of the charts.
func installMesh(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tulle-charts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	charts := exec.CommandContext(ctx, "go", "run", "github.com/tulle-mesh/tulle/deploy/charts", "-version", cluster.Version, "-from", "../../deploy/charts", "-to", dir)
	if out, err := charts.CombinedOutput(); err != nil {
		return fmt.Errorf("charts: %w\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "tulle.yaml"))
	if err != nil {
		return err
	}
	manifest = string(text)
	return apply(ctx, manifest)
}

// manifest is what the mesh was installed by.
var manifest string

// uninstall removes everything from a cluster that stays.
func uninstall() error {
	if !mesh.Given() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var errs []error
	for _, text := range []string{apps, manifest} {
		_, err := mesh.Kubectl(ctx, text, "delete", "--ignore-not-found", "-f", "-")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

//go:embed testdata/apps.yaml
var apps string

func installApps(ctx context.Context) error {
	if err := apply(ctx, strings.NewReplacer("FIRST", nodes[0], "SECOND", nodes[1]).Replace(apps)); err != nil {
		return err
	}
	var errs []error
	for _, namespace := range []string{"meshed", "plain"} {
		_, err := kubectl(ctx, "-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ownImage matches the names that images have in a cluster of this machine.
var ownImage = regexp.MustCompile(strings.Replace(regexp.QuoteMeta(cluster.Image("NAME")), "NAME", "([a-z-]+)", 1))

// apply gives objects to the cluster, with images by its own names.
func apply(ctx context.Context, text string) error {
	text = ownImage.ReplaceAllStringFunc(text, func(found string) string { return mesh.Image(ownImage.FindStringSubmatch(found)[1]) })
	_, err := mesh.Kubectl(ctx, text, "apply", "--server-side", "-f", "-")
	return err
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return mesh.Kubectl(ctx, "", args...)
}

// ask requests a URL from inside a pod.
func ask(ctx context.Context, namespace, pod, url string) (string, error) {
	return kubectl(ctx, "-n", namespace, "exec", pod, "--", "/app", "get", url)
}

// eventually repeats a check for at most a minute.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := demo.AwaitWithin(t.Context(), time.Minute, what, check); err != nil {
		t.Fatal(err)
	}
}

// opened counts the connections, in the metrics of a node's ztunnel, that have all of some labels.
func opened(ctx context.Context, node string, labels ...string) (total int, err error) {
	pod, err := kubectl(ctx, "-n", "istio-system", "get", "pods", "-l", "app=ztunnel", "--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return 0, err
	}
	text, err := kubectl(ctx, "get", "--raw", "/api/v1/namespaces/istio-system/pods/"+pod+":15020/proxy/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		series, isOpened := strings.CutPrefix(line, "istio_tcp_connections_opened_total{")
		if !isOpened || !hasAll(series, labels) {
			continue
		}
		var count int
		if _, err := fmt.Sscan(series[strings.LastIndex(series, "}")+1:], &count); err != nil {
			return 0, fmt.Errorf("metric %q: %w", line, err)
		}
		total += count
	}
	return total, nil
}

func hasAll(series string, labels []string) bool {
	for _, label := range labels {
		if !strings.Contains(series, label) {
			return false
		}
	}
	return true
}
