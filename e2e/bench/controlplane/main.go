// Command controlplane measures what istiod-lite costs and how fast it is, beside a real API server and etcd, with a hundred
// scripted proxies of which one is stuck, while pods change as they do in a busy cluster. See docs/performance.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if kubeconfig := os.Getenv(watchVariable); kubeconfig != "" {
		if err := watchPods(ctx, kubeconfig, os.Stdout); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "plain watch:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// ofOthers sets Go's runtime for what isn't measured: garbage of the API server, etcd and the clients is collected late, since elsewhere
// they have machines of their own.
func ofOthers() error {
	const percent, limit = 400, 8 << 30
	debug.SetGCPercent(percent)
	debug.SetMemoryLimit(limit)
	return errors.Join(os.Setenv("GOGC", strconv.Itoa(percent)), os.Setenv("GOMEMLIMIT", strconv.Itoa(limit)))
}

// run measures one size after the other, each on an API server of its own.
func run(ctx context.Context, o options) error {
	if err := ofOthers(); err != nil {
		return err
	}
	if _, err := cluster.Build(ctx, func(line string) { say("%s", line) }); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tulle-bench-controlplane-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary == "" {
		if o.binary, err = build(ctx, dir); err != nil {
			return err
		}
	}
	r := newResults(o)
	for _, pods := range o.pods {
		b := &bench{options: o, size: sizeOf(pods, o.clients), dir: filepath.Join(dir, fmt.Sprint(pods)), figures: map[figure]float64{}}
		err := b.run(ctx)
		r.add(pods, b.figures)
		if err != nil {
			fmt.Print(r.table())
			return fmt.Errorf("%d pods: %w", pods, err)
		}
		if err := r.keep(o); err != nil {
			return err
		}
		if err := os.RemoveAll(b.dir); err != nil {
			return err
		}
	}
	fmt.Print(r.table())
	return nil
}

// build makes istiod-lite as for a release.
func build(ctx context.Context, dir string) (string, error) {
	say("building istiod-lite")
	binary := filepath.Join(dir, "istiod-lite")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", binary, "github.com/tulle-mesh/tulle/istiod-lite")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
