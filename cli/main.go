// Command tulle is the terminal tool of the mesh: the demo, tokens for machines without Kubernetes, and soon checks.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/cli/command"
)

func main() { os.Exit(command.Main(os.Args[1:], os.Stdout, os.Stderr)) }
