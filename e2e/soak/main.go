// Command soak runs the mesh's real programs on two simulated nodes for long, under mixed traffic, while pods come and go,
// policies and certificates change, and programs are killed; and tells what leaked, failed or was counted wrongly.
//
//	a round  traffic and disturbances, then calm: every connection must be counted once, and nothing be left  soak.go
//	traffic  short, long, large, half closed, reset; each checks what it gets                                traffic.go
//	churn    what changes meanwhile and must not be noticed, and what may be                                  churn.go
//	counts   metrics, descriptors, goroutines, memory                                                         count.go
//
// It needs root. It exits with 1 after it has said what is wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	flags := flag.NewFlagSet("soak", flag.ExitOnError)
	o := options{calm: 12 * time.Second, say: func(line string) { fmt.Println(line) }}
	flags.DurationVar(&o.duration, "duration", time.Hour, "how long to go on")
	flags.DurationVar(&o.round, "round", 20*time.Second, "how long traffic runs before it is counted")
	flags.IntVar(&o.epoch, "epoch", 16, "rounds from one kill of a ztunnel to the next, 2 at least")
	flags.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "tulle-soak"), "run `folder`: programs, logs, sockets; removed at the end")
	_ = flags.Parse(os.Args[1:]) // it exits on a mistake
	o.epoch = max(2, o.epoch)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}
