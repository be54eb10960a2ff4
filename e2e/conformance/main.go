// Command conformance runs Gateway API's own conformance suite for meshes, nothing skipped, against the mesh as its charts install it, on a real
// Kubernetes of two nodes (e2e/cluster), and writes the report that the suite makes of it.
//
//	cluster  made for this run, or one that is up already    main.go
//	images   of the mesh, and of the echo that the suite runs  echo.go, echo/
//	mesh     installed; a waypoint for the suite's services    mesh.go
//	suite    a module of its own, wrapped a little              suite.go, suite/
//
// The suite also passes what never touches a waypoint. The wrapping therefore asks the waypoint's metrics after each test: a test whose requests it
// hasn't counted has failed.
//
// What follows -- is handed to the suite: go run ./e2e/conformance -cluster mine -- -run-test MeshBasic
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// logs is all that is known of a run: the suite's output, and the cluster's state if it has failed.
const logs = "bin/logs/conformance"

// longest is the most that a run may take, if Kubernetes and the suite have to be compiled for it.
const longest = 40 * time.Minute

type options struct {
	cluster string   // that is up already; empty for a new one
	version string   // of the mesh, for the report
	report  string   // file
	suite   []string // further arguments of the suite
}

func main() {
	flags := flag.NewFlagSet("conformance", flag.ExitOnError)
	var o options
	flags.StringVar(&o.cluster, "cluster", "", "`name` of a cluster that is up already and stays (make cluster-up); empty for a new one")
	flags.StringVar(&o.version, "version", cluster.Version, "version of the mesh, as the report says it")
	flags.StringVar(&o.report, "report", "bin/conformance.yaml", "`file` to write the report to")
	_ = flags.Parse(os.Args[1:]) // it exits on a mistake
	o.suite = flags.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func say(line string) { fmt.Println("  " + line) }

func run(ctx context.Context, o options) (err error) {
	c, err := get(ctx, o.cluster)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			say("what is known of the cluster is in " + logs)
			err = errors.Join(err, c.Collect(logs+"/cluster"))
		}
		if o.cluster == "" {
			err = errors.Join(err, c.Down())
		}
	}()
	s, err := buildSuite(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := loadImages(ctx, c, s); err != nil {
		return err
	}
	if err := installMesh(ctx, c); err != nil {
		return err
	}
	return s.run(ctx, c, o)
}

func get(ctx context.Context, name string) (*cluster.Cluster, error) {
	if name != "" {
		return cluster.Find(name)
	}
	return cluster.Up(ctx, cluster.Config{Nodes: 2, Logs: logs + "/cluster", Say: say})
}

func loadImages(ctx context.Context, c *cluster.Cluster, s *suite) error {
	images, err := cluster.Images(ctx, cluster.Version, say)
	if err != nil {
		return err
	}
	echo, err := echoImage(ctx, s)
	if err != nil {
		return err
	}
	return c.Load(ctx, append(images, echo)...)
}
