// Tulle-cni is the plugin that the container runtime executes for every pod.
package main

import "github.com/tulle-mesh/tulle/cni-plugin/plugin"

func main() { plugin.Main() }
