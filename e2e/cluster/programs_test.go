package cluster

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestEveryProgramIsThere(t *testing.T) {
	programs, err := Build(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	tries := map[string]struct{ args, want string }{
		"etcd": {"--version", "etcd Version"}, "kube-apiserver": {"--version", "v1."}, "kube-controller-manager": {"--version", "v1."},
		"kube-scheduler": {"--version", "v1."}, "kubelet": {"--version", "v1."}, "kubectl": {"version --client", "v1."},
		"coredns": {"-version", "CoreDNS"},
		// In one binary with CoreDNS, kube-proxy takes --version for CoreDNS's flag of that name.
		"kube-proxy": {"--help", "The Kubernetes network proxy"},
	}
	for name, try := range tries {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, programs.Path(name), strings.Fields(try.args)...).CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), try.want) {
			t.Errorf("%s %s: %v\n%s", name, try.args, err, out)
		}
	}
	for _, name := range names {
		if _, tried := tries[name]; !tried {
			t.Errorf("%s wasn't tried", name)
		}
	}
}

func TestSecondBuildFindsTheFirst(t *testing.T) {
	first, err := Build(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	second, err := Build(t.Context(), func(line string) { t.Errorf("it builds again: %s", line) })
	if err != nil || second != first {
		t.Errorf("%v %v, want %v", second, err, first)
	}
}
