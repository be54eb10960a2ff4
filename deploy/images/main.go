// Command images makes the images that a mesh is installed from, of programs that were built before. `make images` does both.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	version := flag.String("version", "unknown", "tag of the images")
	built := flag.String("built", "bin/images", "folder that has a folder of programs for each platform, such as linux-arm64")
	to := flag.String("to", "bin/images", "folder to write to")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: images [flags] ARCHITECTURE...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := write(*built, *to, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}
