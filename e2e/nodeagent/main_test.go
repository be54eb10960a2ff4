// Package nodeagent tests the node agent's and the CNI plugin's real programs against a real API server, with pods that are
// real network namespaces with a process in each, and a scripted tunnel proxy.
package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

// manifest is the account that the agent has, as it is installed.
const manifest = "../../deploy/rbac/tulle-cni-agent.yaml"

// The programs and the API server are there for all tests; each test has a node and a namespace of its own.
var (
	agentProgram, pluginProgram string
	shared                      server
)

// server is an API server that knows the agent's account.
type server struct {
	*apiserver.Server
	kubeconfig string // of the account
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "tulle-nodeagent-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if agentProgram, err = build(dir, "tulle-cni-agent", "github.com/tulle-mesh/tulle/cni-plugin/node-agent"); err != nil {
		return 1, err
	}
	if pluginProgram, err = build(dir, "tulle-cni", "github.com/tulle-mesh/tulle/cni-plugin"); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if shared, err = serve(ctx, apiserver.Config{Dir: dir, Say: func(line string) { fmt.Println("  " + line) }}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.Stop()) }()
	return m.Run(), nil
}

func serve(ctx context.Context, config apiserver.Config) (s server, err error) {
	if s.Server, err = apiserver.Start(ctx, config); err != nil {
		return s, err
	}
	account, err := os.ReadFile(manifest)
	if err == nil {
		err = s.Apply(ctx, string(account))
	}
	if err == nil {
		s.kubeconfig, err = s.Kubeconfig(ctx, apiserver.User{Namespace: system, Account: "istio-cni"})
	}
	if err != nil {
		return s, errors.Join(err, s.Stop())
	}
	return s, nil
}

// build makes a program, with the race detector where there is a C compiler for it.
func build(dir, name, source string) (string, error) {
	to := filepath.Join(dir, name)
	args := []string{"build", "-buildvcs=false", "-o", to, source}
	if _, err := exec.LookPath("gcc"); err == nil {
		args = append([]string{"build", "-race"}, args[1:]...)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	return to, nil
}
