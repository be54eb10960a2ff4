// Ztunnel carries the traffic of a node's pods through mutually authenticated tunnels.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/ztunnel/config"
	"github.com/tulle-mesh/tulle/ztunnel/daemon"
)

var version = "dev" // the linker sets it

func main() {
	switch command := append(os.Args[1:], "proxy")[0]; command {
	case "proxy":
		if err := proxy(); err != nil {
			fmt.Fprintln(os.Stderr, "ztunnel:", err)
			os.Exit(1)
		}
	case "version":
		fmt.Println("ztunnel", version)
	case "help", "-h", "--help":
		fmt.Println("usage: ztunnel [proxy|version|help]\nproxy, which is meant without any, is told everything by environment variables: see ztunnel/README.md.")
	default:
		fmt.Fprintf(os.Stderr, "ztunnel: unknown command %q; try help\n", command)
		os.Exit(2)
	}
}

func proxy() error {
	cfg, err := config.FromEnv(os.Environ())
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(cfg.Threads) // the limit of open files needs nothing: Go raises it by itself
	d := drain.New(cfg.DrainTimeout)
	watched := make(chan struct{})
	go func() { defer close(watched); d.Signals(context.Background()) }()
	err = daemon.Run(d, cfg, version, os.Stdout)
	d.Force("ended")
	<-watched
	return err
}
