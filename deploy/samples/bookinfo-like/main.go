// Command bookinfo-like is an application to try a mesh with, of the shape of Istio's Bookinfo: a page about a book, to which
// several services contribute, by HTTP, gRPC and TCP. The program is all of them; its argument says which one.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long one service waits for another, grace how long calls may go on after SIGTERM.
	patience, grace = 3 * time.Second, 5 * time.Second
	maxAnswer       = 1 << 20 // bytes that one service takes from another
)

// config says where a service is, and the others.
type config struct {
	Listen  string
	Version string // v1, v2 or v3, of reviews: without stars, with black ones, with red ones
	Pod     string

	Details, Reviews, Ratings, Stars string // each host:port
}

func fromEnv(lookup func(string) string) config {
	or := func(name, usual string) string {
		if value := lookup(name); value != "" {
			return value
		}
		return usual
	}
	return config{
		Listen: or("LISTEN", ""), Version: or("SERVICE_VERSION", "v1"), Pod: or("POD_NAME", "unknown"),
		Details: or("DETAILS_ADDR", "details:9080"), Reviews: or("REVIEWS_ADDR", "reviews:9080"),
		Ratings: or("RATINGS_ADDR", "ratings:9080"), Stars: or("STARS_ADDR", "mongodb:27017"),
	}
}

// service runs on a listener until the context ends.
type service struct {
	listen string // unless somebody says otherwise
	run    func(context.Context, net.Listener, config) error
}

var services = map[string]service{
	"productpage": {":9080", serve(productpage)},
	"details":     {":9080", serve(details)},
	"reviews":     {":9080", serve(reviews)},
	"ratings":     {":9080", ratings},
	"mongodb":     {":27017", stars},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], fromEnv(os.Getenv))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bookinfo-like:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, c config) error {
	names := strings.Join(slices.Sorted(maps.Keys(services)), ", ")
	if len(args) != 1 {
		return errors.New("which service? want one of " + names)
	}
	chosen, ok := services[args[0]]
	if !ok {
		return fmt.Errorf("unknown service %q: want one of %s", args[0], names)
	}
	if c.Listen == "" {
		c.Listen = chosen.listen
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	fmt.Println(args[0], c.Version, "serves on", l.Addr())
	return chosen.run(ctx, l, c)
}

// serve makes a service of HTTP/1.1.
func serve(handler func(config) http.Handler) func(context.Context, net.Listener, config) error {
	return func(ctx context.Context, l net.Listener, c config) error {
		server := &http.Server{Handler: handler(c), ReadHeaderTimeout: patience, ReadTimeout: patience, WriteTimeout: 3 * patience, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		until, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(until)
		<-ended
		return err
	}
}
