// Command tulle is the terminal tool of the mesh: the demo, tokens for machines without Kubernetes, and soon checks.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/cli/command"
)

// version is set by the linker: go build -ldflags '-X main.version=v1.2.3'.
var version string

func main() { os.Exit(command.Main(version, os.Args, os.Stdout, os.Stderr)) }
