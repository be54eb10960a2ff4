// Command echo is what the pods of Gateway API's conformance suite run: servers that answer with what they were asked, and the client that
// the suite starts in a pod to ask them, whose output it reads. The suite's documents call for an image with both, by the names that they have here.
//
//	server --port=8080 --port=8443 --tls=8443 --tcp=9090 --grpc=7070
//	client http://echo:80/path --method=GET -H name:value --count=500
//
// By its own name it is told which: echo server …
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if name == "echo" && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if err := run(ctx, name, args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, args []string) error {
	switch program {
	case "server":
		return runServer(ctx, args)
	case "client":
		return runClient(ctx, args, os.Stdout)
	}
	return fmt.Errorf("echo is called %q: want server or client", program)
}
