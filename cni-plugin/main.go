// Tulle-cni is the plugin that the container runtime executes for every pod.
package main

import "github.com/tulle-mesh/tulle/cni-plugin/plugin"

var version = "unknown" // the linker sets it

func main() { plugin.Main(version) }
