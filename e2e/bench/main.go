// Command bench measures what ztunnel costs, process by process, in ratios to the least that any proxy could cost.
//
// It builds two nodes with a pod each out of network namespaces for every column: direct (nothing between the pods), relay
// (two splice relays in the place of two ztunnels), tls-relay (the same with crypto/tls), tulle (two ztunnels) and other
// ztunnels that ZTUNNEL_BIN names. The columns take turns within each round of each row. It needs root. See
// docs/performance.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if role, ok := os.LookupEnv(roleVariable); ok {
		exit(play(role))
	}
	o, err := parseOptions(os.Args[1:], os.Getenv("ZTUNNEL_BIN"))
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
