// Ztunnel carries the traffic of a node's pods through mutually authenticated tunnels.
package main

import (
	"fmt"
	"os"
	"runtime"

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
	// The workers keep their places also while they wait a moment; handshakes and all else that isn't on the path of bytes needs
	// its own. The limit of open files needs nothing: Go raises it by itself.
	runtime.GOMAXPROCS(cfg.Threads + runtime.NumCPU())
	return daemon.Run(cfg, version, os.Stdout)
}
