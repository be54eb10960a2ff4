package cluster_test

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// logs of clusters in which a test has failed.
const logs = "../../bin/logs/cluster"

// forever makes this program a caller who is killed: it brings up a cluster of that name.
const forever = "TULLE_TEST_UP"

func TestMain(m *testing.M) {
	flag.Parse()
	if name := os.Getenv(forever); name != "" {
		os.Exit(stay(name))
	}
	code := m.Run()
	if err := errors.Join(shared.end(code), tidy()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// stay brings a cluster up, says so, and stays.
func stay(name string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if _, err := cluster.Up(ctx, cluster.Config{Name: name, Nodes: 1, Logs: logs}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("up")
	<-ctx.Done()
	return 0
}

// shared is the cluster of most tests, with a pod of apps.yaml on each node.
var shared site

type site struct {
	once sync.Once
	*cluster.Cluster
	err error
}

const namespace = "tulle-cluster-test"

//go:embed testdata/apps.yaml
var apps string

// get returns the shared cluster, which the first test waits for.
func get(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("a cluster takes root, and minutes for the first time")
	}
	shared.once.Do(func() { shared.err = shared.up() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared
}

func (s *site) up() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // when Kubernetes has to be built
	defer cancel()
	say := func(line string) { fmt.Println("  " + line) }
	if s.Cluster, err = cluster.Get(ctx, cluster.Config{Nodes: 3, Logs: logs, Say: say}); err != nil {
		return err
	}
	return s.install(ctx)
}

// install runs the apps, and waits for them and until every node has heard that their service has pods.
func (s *site) install(ctx context.Context) error {
	text := strings.NewReplacer("NAMESPACE", namespace, "IMAGE", s.Image("app")).Replace(apps)
	if _, err := s.Kubectl(ctx, text, "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "-n", namespace, "rollout", "status", "daemonset/app", "--timeout=60s"); err != nil {
		return err
	}
	pods, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, from := range pods {
		err := demo.AwaitWithin(ctx, time.Minute, "the service on "+from.node, func(ctx context.Context) error {
			_, err := s.ask(ctx, from, "http://app/")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// end takes the shared cluster down, after collecting its logs if a test has failed.
func (s *site) end(code int) error {
	if s.Cluster == nil {
		return nil
	}
	var errs []error
	if code != 0 {
		fmt.Println("what is known of the cluster is in", logs)
		errs = append(errs, s.Collect(logs))
	}
	if s.Given() {
		_, err := s.Kubectl(context.Background(), "", "delete", "namespace", namespace, "--timeout=60s")
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.Down())...)
}

// pod is one of the apps.
type pod struct{ name, node, addr string }

// pods lists the apps that are alive, one for each node.
func (s *site) pods(t *testing.T) []pod {
	t.Helper()
	pods, err := s.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) == 0 {
		t.Fatal("no pod of the app runs")
	}
	return pods
}

func (s *site) list(ctx context.Context) (pods []pod, err error) {
	const columns = "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.metadata.name} {.spec.nodeName} {.status.podIP}{\"\\n\"}{end}"
	out, err := s.Kubectl(ctx, "", "-n", namespace, "get", "pods", "-l", "app=app", "-o", columns)
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 3 {
			pods = append(pods, pod{fields[0], fields[1], fields[2]})
		}
	}
	return pods, err
}

// ask requests a URL from inside a pod.
func (s *site) ask(ctx context.Context, from pod, url string) (string, error) {
	return s.Kubectl(ctx, "", "-n", namespace, "exec", from.name, "--", "/app", "get", url)
}

// eventually repeats a check for at most a minute.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := demo.AwaitWithin(t.Context(), time.Minute, what, check); err != nil {
		t.Fatal(err)
	}
}

// traces are all that clusters of a name have left on this machine.
func traces(name string) []string {
	var found []string
	cache, _ := os.UserCacheDir()
	for _, pattern := range []string{
		"/sys/fs/cgroup/tulle-" + name, "/sys/fs/cgroup/*/tulle-" + name, filepath.Join(cache, "tulle/clusters", name),
	} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "clusters/"+name+"/") {
			found = append(found, line)
		}
	}
	executables, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, path := range executables {
		if target, err := os.Readlink(path); err == nil && strings.Contains(target, "clusters/"+name+"/") {
			found = append(found, path+" is "+target)
		}
	}
	return found
}

// tidy looks whether the clusters of this process have left anything.
func tidy() error {
	if left := traces(fmt.Sprintf("t%dn*", os.Getpid())); len(left) > 0 {
		return fmt.Errorf("left behind by the tests:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}
