// Tulle-cni-agent takes the pods of its node into the mesh and out of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/daemon"
	"github.com/tulle-mesh/tulle/cni-plugin/inspect"
)

var version = "unknown" // the linker sets it

func main() {
	if inspect.Is(os.Args[1:]) {
		if err := inspect.Run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "tulle-cni-agent:", err)
			os.Exit(1)
		}
		return
	}
	cfg, err := config.Parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err == nil && cfg.Version:
		fmt.Println("tulle-cni-agent", version)
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		err = daemon.Run(ctx, cfg, version, os.Stdout)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle-cni-agent:", err)
		os.Exit(1)
	}
}
