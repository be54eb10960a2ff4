package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAKubeconfigThatCannotBeUsedIsNamedWithTheRemedy(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"missing":          {"", "no such file or directory"},
		"empty":            {"{}", "no cluster is in it"},
		"broken":           {"{{{", "yaml"},
		"without a server": {"{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: b}}]}", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if c.text != "" {
				if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Connect(path, "test")
			if err == nil || strings.Contains(err.Error(), "KUBERNETES_MASTER") {
				t.Fatal(err)
			}
			for _, want := range []string{"connect to Kubernetes: --kubeconfig " + path + ": ", c.want, "; want a file with a current context, such as kubectl config view"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in %v", want, err)
				}
			}
		})
	}
}
