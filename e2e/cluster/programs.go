package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// names of the programs; see programs/main.go.
var names = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "coredns"}

// binary is what they are links to.
const binary = "programs"

// Programs is a folder with every program of a Kubernetes cluster.
type Programs struct{ dir string }

// Path returns the file of a program, such as "kube-apiserver".
func (p Programs) Path(name string) string { return filepath.Join(p.dir, name) }

// Build returns the programs. The first time, on a machine that has never compiled Kubernetes, it takes both of two cores
// for six minutes; say is told what is going on then. Afterwards the programs are in the user's cache folder, by a hash of
// what they are made of. Several processes may call it at a time: one builds, the others wait.
func Build(ctx context.Context, say func(string)) (Programs, error) {
	source, err := sources(ctx)
	if err != nil {
		return Programs{}, err
	}
	dir, err := once(ctx, "kubernetes", source.key, say, func(fresh string) error { return source.build(ctx, fresh, say) })
	if err != nil {
		return Programs{}, fmt.Errorf("build Kubernetes' programs: %w", err)
	}
	return Programs{dir: dir}, nil
}

// source is the module of the programs.
type source struct {
	dir, key string
	version  string // of Kubernetes, such as v1.36.3
}

var kubernetesVersion = regexp.MustCompile(`(?m)^\s+k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)$`)

// sources finds the module beside this package, and hashes it.
func sources(ctx context.Context) (source, error) {
	dir, err := sourceOf(ctx, "programs")
	if err != nil {
		return source{}, err
	}
	s := source{dir: dir}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return source{}, err
		}
		if version := kubernetesVersion.FindSubmatch(text); name == "go.mod" && version != nil {
			s.version = string(version[1])
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
	}
	if s.version == "" {
		return source{}, fmt.Errorf("%s requires no version of k8s.io/kubernetes", filepath.Join(s.dir, "go.mod"))
	}
	s.key = s.version + "-" + hex.EncodeToString(hash.Sum(nil)[:8])
	return s, nil
}

// sourceOf finds a folder beside this package.
func sourceOf(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", module+"e2e/cluster").Output()
	if err != nil {
		return "", fmt.Errorf("find the source of a cluster's %s: %w; run this within the project", name, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name), nil
}

func (s source) build(ctx context.Context, dir string, say func(string)) error {
	say(fmt.Sprintf("building Kubernetes %s from its Go modules, once: about six minutes of two cores", s.version))
	if err := compile(ctx, "Kubernetes", s.dir, say, "-ldflags", s.ldflags(), "-o", filepath.Join(dir, binary), "."); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Symlink(binary, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// progress is how often a build says that it goes on.
const progress = 30 * time.Second

// compile builds a program out of a module that isn't in the workspace.
func compile(ctx context.Context, what, dir string, say func(string), args ...string) error {
	began := time.Now()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-buildvcs=false"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go and its compilers end together
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(progress)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("go build in %s: %w\n%s", dir, err, out.Bytes()[max(0, out.Len()-4000):])
			}
			say(fmt.Sprintf("built %s in %s", what, time.Since(began).Round(time.Second)))
			return nil
		case <-ticker.C:
			say(fmt.Sprintf("still building %s, for %s", what, time.Since(began).Round(time.Second)))
		}
	}
}

// ldflags give the programs the version that their release has; otherwise clients take them for an unknown one.
func (s source) ldflags() string {
	number := strings.SplitN(strings.TrimPrefix(s.version, "v"), ".", 3)
	flags := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for name, value := range map[string]string{
			"gitVersion": s.version, "gitMajor": number[0], "gitMinor": number[1],
			"gitTreeState": "clean", "gitCommit": "tulle", "buildDate": "2026-01-01T00:00:00Z",
		} {
			flags += fmt.Sprintf(" -X %s.%s=%s", pkg, name, value)
		}
	}
	return flags
}
