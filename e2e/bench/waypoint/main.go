// Command waypoint measures what a waypoint costs for each request, beside net/http/httputil's ReverseProxy that does less.
//
// It builds a node with pods out of network namespaces: clients, a server, waypoints, and proxies to compare with. All of them are processes of their
// own; istiod-lite tells the waypoints what to do, by a folder. The cases take turns within each round. It needs root. See docs/performance.md.
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
	o, err := parseOptions(os.Args[1:])
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

// The benchmark runs itself in the pods too, as what this variable says.
const (
	roleVariable = "TULLE_BENCH_ROLE"
	roleParty    = "party"
	roleReverse  = "reverse-proxy"
	roleCodecs   = "codecs"
	roleBytes    = "bytes"

	// serverVariable is where proxies that aren't waypoints pass requests on to.
	serverVariable = "TULLE_BENCH_SERVER"
)

// play is the whole program in a role. It ends when its standard input does, so that it outlives nobody.
func play(role string) error {
	if role == roleParty {
		return serveParty()
	}
	if p, ok := plain[role]; ok {
		go endWithInput()
		return p.serve(p.port, os.Getenv(serverVariable))
	}
	return fmt.Errorf("%s=%s: no such role", roleVariable, role)
}

func endWithInput() {
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}
