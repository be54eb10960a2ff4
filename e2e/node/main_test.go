// Package node tests the mesh's real programs on simulated nodes and pods: real network namespaces, real capture, real
// processes, no Kubernetes. It needs root.
package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// programs are built once for all tests.
var programs demo.Programs

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// run builds the programs, runs the tests, and then looks for what they have left behind.
func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return complain("these tests make network namespaces; run them as root: sudo env \"PATH=$PATH\" go test ./e2e/node")
	}
	dir, err := os.MkdirTemp("", "tulle-e2e-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return complain(err)
	}
	if err := demo.Require(demo.Spec{Programs: programs}); err != nil {
		return complain(err)
	}
	before := traces()
	code := m.Run()
	if err := errors.Join(shared.end(), rewriting.end(), last.end()); err != nil {
		code = complain(err)
	}
	if left := newcomers(before, traces()); len(left) > 0 {
		code = complain("left behind by the tests:\n  " + strings.Join(left, "\n  "))
	}
	return code
}

func complain(what any) int {
	fmt.Fprintln(os.Stderr, what)
	return 1
}

// build makes the programs, with the race detector where there is a C compiler for it.
func build(dir string) error {
	began := time.Now()
	flags := []string{"build", "-o"}
	_, compiler := exec.LookPath("gcc")
	if raced := compiler == nil; raced {
		flags = []string{"build", "-race", "-o"}
	}
	targets := map[string]struct {
		path *string
		from string
	}{
		"tulle":           {&programs.Tulle, "cli"},
		"istiod-lite":     {&programs.Istiod, "istiod-lite"},
		"tulle-cni-agent": {&programs.Agent, "cni-plugin/node-agent"},
		"ztunnel":         {&programs.Ztunnel, "ztunnel"},
		"waypoint":        {&programs.Waypoint, "waypoint"},
	}
	for name, target := range targets {
		*target.path = filepath.Join(dir, name)
		args := append(flags, *target.path, "github.com/tulle-mesh/tulle/"+target.from)
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	fmt.Printf("built the programs (%.0f s)\n", time.Since(began).Seconds())
	return nil
}

// traces lists everything on this machine that tests could leave behind: namespaces, mounts, pinned objects, processes.
func traces() map[string]bool {
	found := map[string]bool{}
	for _, pattern := range []string{"/run/netns/*", "/run/tulle*", "/sys/fs/bpf/*", "/var/run/ztunnel/*", "/var/run/istio-cni/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			found[path] = true
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		found["mount: "+strings.TrimSpace(line)] = true
	}
	executables, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, path := range executables {
		target, err := os.Readlink(path)
		if err == nil && strings.HasPrefix(target, filepath.Dir(programs.Tulle)+"/") {
			found["process: "+filepath.Dir(path)+" "+target] = true
		}
	}
	return found
}

// newcomers are the traces of this package's own tests that weren't there before: others may run at the same time.
func newcomers(before, after map[string]bool) []string {
	var left []string
	for trace := range after {
		if !before[trace] && (strings.Contains(trace, mine()) || strings.HasPrefix(trace, "process: ") || strings.HasPrefix(trace, "/sys/fs/bpf/")) {
			left = append(left, trace)
		}
	}
	return left
}

// mine is in the name of everything that this run of the tests makes.
func mine() string { return fmt.Sprintf("e2e%d", os.Getpid()) }

// start brings a cluster up and checks after the test that its programs have reported no data race.
func start(t *testing.T, spec demo.Spec) *demo.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cluster, err := demo.Up(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, race := range races(cluster) {
			t.Error(race)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := cluster.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// races returns what the race detector and the runtime have to say in the logs of a cluster's programs.
func races(cluster *demo.Cluster) []string {
	var found []string
	for _, p := range cluster.Processes() {
		log, err := os.ReadFile(cluster.LogFile(p.Name))
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		for _, word := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if at := strings.Index(string(log), word); at >= 0 {
				found = append(found, fmt.Sprintf("%s: %.3000s", p.Name, log[at:]))
			}
		}
	}
	return found
}
