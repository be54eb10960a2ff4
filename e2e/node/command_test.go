package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/cli/story"
)

// tulle runs the command line as a person would, and returns what it printed and its exit code.
func tulle(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, programs.Tulle, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("tulle %v: %v\n%s", args, err, out)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// want runs the command line and checks its exit code and some of its words.
func want(t *testing.T, code int, words []string, args ...string) string {
	t.Helper()
	out, got := tulle(t, args...)
	if got != code {
		t.Errorf("tulle %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("tulle %s doesn't say %q:\n%s", strings.Join(args, " "), word, out)
		}
	}
	return out
}

// runDir is a folder for a demo, with a name that its namespaces carry too.
func runDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), mine())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := demo.CleanUp(ctx, dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// The demo is left up, played with, and removed.
func TestDemoKept(t *testing.T) {
	dir := runDir(t)
	told := want(t, 0, []string{
		"1. Unmeshed", "is readable on the wire", "2. Two namespaces", "handshakes chose TLS 1.3", "spiffe://cluster.local/ns/shop/sa/frontend",
		"spiffe://cluster.local/ns/guest/sa/visitor", "3. A policy", "istio_tcp_connections_failed_total{", "was cut after", "4. STRICT",
		"without an identity, is refused", "5. The control plane", "changes flow again", "6. The labels", "all six steps hold",
		"tulle demo exec --dir " + dir + " frontend -- curl", dir + "/mesh",
	}, "demo", "--keep", "--dir", dir)
	if strings.Contains(told, "✗") {
		t.Errorf("something doesn't hold:\n%s", told)
	}
	want(t, 1, []string{"error: a demo is up already in " + dir, "tulle demo status --dir " + dir, "tulle demo down --dir " + dir}, "demo", "--dir", dir)
	want(t, 0, []string{"frontend", "10.244.1.10", "ztunnel-node1", "runs"}, "demo", "status", "--dir", dir)
	want(t, 0, []string{"10.96.0.11 backend.shop"}, "demo", "exec", "frontend", "--dir", dir, "--", "cat", "/etc/hosts")
	want(t, 0, []string{"\t10.96.0.11 backend.shop"}, "demo", "exec", "--dir", dir, "frontend", "cat", "-n", "/etc/hosts")
	want(t, 7, nil, "demo", "exec", "visitor", "--dir", dir, "--", "sh", "-c", "exit 7")
	want(t, 1, []string{`error: no "nobody" here`}, "demo", "exec", "nobody", "--dir", dir, "--", "true")
	want(t, 0, []string{"removed the demo"}, "demo", "down", "--dir", dir)
	want(t, 0, []string{"nothing to remove"}, "demo", "down", "--dir", dir)
	gone(t, dir)
}

// begun starts a demo and returns when it has told its first step.
func begun(t *testing.T, dir string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(programs.Tulle, "demo", "--dir", dir)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := &bytes.Buffer{}
	for !strings.Contains(told.String(), "2. Two namespaces") {
		if _, err := io.CopyN(told, output, 1); err != nil {
			t.Fatalf("%v\n%s", err, told)
		}
	}
	go io.Copy(io.Discard, output)
	return cmd, told
}

func TestDemoInterrupted(t *testing.T) {
	dir := runDir(t)
	cmd, _ := begun(t, dir)
	want(t, 1, []string{"a demo is up already"}, "demo", "--dir", dir)
	want(t, 1, []string{"end it with Ctrl-C where it runs"}, "demo", "down", "--dir", dir)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d after Ctrl-C", cmd.ProcessState.ExitCode())
	}
	gone(t, dir)
}

func TestDemoCrashed(t *testing.T) {
	dir := runDir(t)
	cmd, _ := begun(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	again, _ := begun(t, dir) // The next start cleans up, and works.
	if err := again.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	again.Wait()
	want(t, 0, []string{"removed the demo"}, "demo", "down", "--dir", dir)
	gone(t, dir)
}

// gone checks that a demo has left nothing.
func gone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	for trace := range traces() {
		if strings.Contains(trace, "tulle-"+story.Cluster(dir, programs).Name+"-") || strings.Contains(trace, dir) {
			t.Errorf("left: %s", trace)
		}
	}
}
