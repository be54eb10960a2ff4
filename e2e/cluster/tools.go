package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// tool is a program that people use beside a mesh; see tools/go.mod.
type tool struct{ path, tags string }

var tools = map[string]tool{
	"helm": {path: "helm.sh/helm/v4/cmd/helm"},
	// Of the ways in which it finds what to scrape, Kubernetes alone.
	"prometheus": {"github.com/prometheus/prometheus/cmd/prometheus", "remove_all_sd,enable_kubernetes_sd"},
}

// Tool returns the folder that has nothing but a program that people use beside a mesh: helm or prometheus. The first time it is built, in
// one to three minutes of two cores.
func Tool(ctx context.Context, name string, say func(string)) (dir string, err error) {
	t, known := tools[name]
	if !known {
		return "", fmt.Errorf("there is no tool %q", name)
	}
	source, err := sourceOf(ctx, "tools")
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOARCH, t)
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source, file))
		if err != nil {
			return "", err
		}
		hash.Write(text)
	}
	dir, err = once(ctx, "tools", name+"-"+hex.EncodeToString(hash.Sum(nil)[:8]), say, func(fresh string) error {
		say("building " + name + " from its Go module, once")
		return compile(ctx, name, source, say, "-tags", t.tags, "-ldflags", "-s -w", "-o", filepath.Join(fresh, name), t.path)
	})
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return dir, nil
}
