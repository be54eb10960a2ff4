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
	for name, args := range map[string][]string{
		"etcd": {"--version"}, "kube-apiserver": {"--version"}, "kube-controller-manager": {"--version"}, "kube-scheduler": {"--version"},
		"kubelet": {"--version"}, "kube-proxy": {"--version"}, "kubectl": {"version", "--client"}, "coredns": {"-version"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, programs.Path(name), args...).CombinedOutput()
		cancel()
		if err != nil || (strings.HasPrefix(name, "kube") && !strings.Contains(string(out), "v1.")) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if len(names) != 8 {
		t.Errorf("%d programs, of which 8 were tried", len(names))
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
