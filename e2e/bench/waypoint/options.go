package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	rows     *regexp.Regexp
	rounds   int
	duration time.Duration // of a sample
	changes  int           // of a route, under load
	with     []candidate
	profiles string // folder for profiles of the waypoint, "" for none
	json     string // file for everything that was measured, "" for none
	store    string // page whose table is rewritten, "" for none
	dir      string // run folder
}

// candidate is a waypoint that is measured.
type candidate struct{ name, binary string }

// ours is the waypoint that is built.
const ours = "waypoint"

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("waypoint", flag.ContinueOnError)
	rows := flags.String("rows", "", "measure only the rows whose names match this regular expression")
	flags.IntVar(&o.rounds, "rounds", 5, "samples of each row")
	flags.DurationVar(&o.duration, "duration", time.Second, "duration of a sample")
	flags.IntVar(&o.changes, "changes", 200, "changes of a route under load; 0 for none")
	flags.Func("with", "`name=path` of another waypoint that understands the same environment; may be repeated", func(text string) error {
		name, path, ok := strings.Cut(text, "=")
		if !ok || name == "" || name == ours {
			return errors.New("want name=path, with a name of its own")
		}
		_, err := os.Stat(path)
		o.with = append(o.with, candidate{name, path})
		return err
	})
	flags.StringVar(&o.profiles, "profile", "", "take a CPU profile of our waypoint in each sample, into this `folder`")
	flags.StringVar(&o.json, "json", "", "write everything that was measured to this `file`")
	flags.StringVar(&o.store, "store", "", "put the results into the table of this `page`")
	flags.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "tulle-bench-waypoint"), "run `folder`; removed at the end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.rows, err = regexp.Compile(*rows); err != nil {
		return o, fmt.Errorf("-rows: %w", err)
	}
	if o.rounds < 1 || o.duration < 50*time.Millisecond || o.duration > time.Minute || flags.NArg() > 0 {
		return o, errors.New("want at least 1 round, a duration from 50ms to 1m, and no arguments; see -help")
	}
	return o, nil
}
