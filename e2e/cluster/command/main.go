// Command command takes clusters up and down by hand, and becomes their nodes:
//
//	go run ./e2e/cluster/command up [NAME [NODES]]      // it stays until it is taken down
//	go run ./e2e/cluster/command down [NAME]
//	go run ./e2e/cluster/command shell [NAME [NODE]]    // a shell that reaches all of it, with kubectl; or one on a node
//	go run ./e2e/cluster/command images                 // makes the images that tests need, for another cluster's registry
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/node"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const usage = "want: up [NAME [NODES]], down [NAME], shell [NAME [NODE]], or images"

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	verb, name, number := args[0], "tulle", 0
	if len(args) > 1 {
		name = args[1]
	}
	if len(args) > 2 {
		var err error
		if number, err = strconv.Atoi(args[2]); err != nil || len(args) > 3 {
			return errors.New(usage)
		}
	}
	switch verb {
	case "node":
		return node.Run(name, number)
	case "up":
		return up(ctx, name, number)
	case "down":
		c, err := cluster.Find(name)
		if err != nil {
			return err
		}
		return c.Down()
	case "shell":
		return shell(ctx, name, number)
	case "images":
		return images(ctx)
	}
	return errors.New(usage)
}

// images prints the archives of all images that tests run.
func images(ctx context.Context) error {
	archives, err := cluster.Images(ctx, cluster.Version, func(line string) { fmt.Fprintln(os.Stderr, "  "+line) })
	if err != nil {
		return err
	}
	tests, err := cluster.TestImages(ctx)
	if err != nil {
		return err
	}
	for _, archive := range append(archives, tests...) {
		fmt.Println(archive)
	}
	return nil
}

func up(ctx context.Context, name string, nodes int) error {
	c, err := cluster.Up(ctx, cluster.Config{Name: name, Nodes: nodes, Keep: true, Say: func(line string) { fmt.Println("  " + line) }})
	if err != nil {
		return err
	}
	out, err := c.Kubectl(ctx, "", "get", "nodes", "-o", "wide")
	fmt.Print(out)
	return err
}

// shell ends with the shell, not by Ctrl-C, which is the shell's.
func shell(ctx context.Context, name string, node int) error {
	c, err := cluster.Find(name)
	if err != nil {
		return err
	}
	cmd := c.Command(context.WithoutCancel(ctx), "bash")
	start := c.Do
	if node > 0 {
		start = func(f func() error) error { return f() }
		if cmd, err = c.OnNode(context.WithoutCancel(ctx), node, "bash"); err != nil {
			return err
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := start(cmd.Start); err != nil {
		return err
	}
	cmd.Wait() // how the last command of a shell ended says nothing about it
	return nil
}
