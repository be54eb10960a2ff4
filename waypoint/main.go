// Waypoint takes the requests to the services of a namespace, or to some of them, on their way: routes, policy, telemetry.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/tulle-mesh/tulle/waypoint/config"
	"github.com/tulle-mesh/tulle/waypoint/daemon"
)

var version = "dev" // the linker sets it

const usage = "usage: waypoint [proxy waypoint|version|help]\nWithout arguments it serves; it is told everything by environment variables: see waypoint/README.md."

func main() {
	switch command := append(os.Args[1:], "proxy")[0]; command {
	case "proxy":
		if err := proxy(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "waypoint:", err)
			os.Exit(1)
		}
	case "version":
		fmt.Println("waypoint", version)
	case "help", "-h", "--help":
		fmt.Println(usage)
	default:
		fmt.Fprintf(os.Stderr, "waypoint: unknown command %q; try help\n", command)
		os.Exit(2)
	}
}

func proxy(args []string) error {
	if err := heard(args); err != nil {
		return err
	}
	cfg, err := config.FromEnv(os.Environ())
	if err != nil {
		return err
	}
	// The workers keep their places also while they wait a moment; handshakes and all else that isn't on the path of bytes needs its own.
	runtime.GOMAXPROCS(cfg.Workers + runtime.NumCPU())
	return daemon.Run(cfg, version, os.Stdout)
}

// heard takes the arguments that Istio's templates give: they say nothing that the variables don't.
func heard(args []string) error {
	if len(args) == 0 {
		return nil
	}
	if len(args) > 1 && args[1] == "waypoint" {
		args = args[1:]
	}
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	for _, name := range []string{"domain", "serviceCluster", "proxyLogLevel", "proxyComponentLogLevel", "log_output_level"} {
		flags.String(name, "", "heard, and not needed")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no argument; try help", flags.Arg(0))
	}
	return nil
}
