// Command charts makes what Helm installs a mesh from: packages of the charts beside it, which get what isn't in their source,
// and a manifest for those who don't use Helm. `make charts` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

// patience is for a library that has to be downloaded.
const patience = 5 * time.Minute

func main() {
	version := flag.String("version", "unknown", "tag of the images that the charts install")
	from := flag.String("from", "deploy/charts", "folder of the charts")
	to := flag.String("to", "bin/charts", "folder to write to")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	err := source{*from, *version}.write(ctx, *to)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}
