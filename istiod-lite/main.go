// Command istiod-lite is the control plane of a Tulle mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/daemon"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

var version = "unknown" // the linker sets it

func main() {
	if err := run(); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "istiod-lite:", err)
		os.Exit(1)
	}
}

func run() error {
	cfg, err := config.Parse(os.Args[1:], os.Environ(), os.Stdout)
	if err != nil {
		return err
	}
	levels, err := telemetry.ParseLevels("info")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return daemon.Run(ctx, cfg, version, telemetry.NewLogger(os.Stderr, "plain", levels))
}
