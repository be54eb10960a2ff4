package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	rows     *regexp.Regexp
	columns  []column
	rounds   int
	duration time.Duration // of a sample
	env      []string      // for ztunnels
	busy     float64       // share of the machine that others may use during a sample
	repeats  int           // of samples on a busy machine, in all
	profiles string        // folder for CPU profiles of ztunnels, "" for none
	json     string        // file for everything that was measured, "" for none
	store    string        // page whose table is rewritten, "" for none
	dir      string        // run folder
	idle     idlePlan
}

// column is one kind of thing between the pods.
type column struct {
	name   string
	role   string // of this program, for the relays
	binary string // of a ztunnel; "" means ours, which is built
}

func (c column) direct() bool  { return c.name == "direct" }
func (c column) ztunnel() bool { return !c.direct() && c.role == "" }

// reference is the column that ratios are to.
const reference = "relay"

func builtIn() []column {
	return []column{{name: "direct"}, {name: reference, role: roleRelay}, {name: "tls-relay", role: roleTLSRelay}, {name: "tulle"}}
}

// parseOptions reads the command line. others is a list of name=path, separated by commas.
func parseOptions(args []string, others string) (options, error) {
	o := options{idle: standardIdle()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rows := flags.String("rows", "", "measure only the rows whose names match this regular expression")
	columns := flags.String("columns", "", "columns to measure, separated by commas; empty means all")
	flags.IntVar(&o.rounds, "rounds", 5, "samples of each cell")
	flags.DurationVar(&o.duration, "duration", time.Second, "duration of a sample")
	flags.Func("env", "`NAME=value` for the ztunnels; may be repeated", func(text string) error {
		o.env = append(o.env, text)
		return nil
	})
	flags.Float64Var(&o.busy, "busy", 0.05, "repeat a sample during which others used more than this share of the machine")
	flags.IntVar(&o.repeats, "repeats", 30, "repeat at most so many samples in all")
	flags.StringVar(&o.profiles, "profile", "", "take a CPU profile of each ztunnel in each sample, into this `folder`")
	flags.StringVar(&o.json, "json", "", "write everything that was measured to this `file`")
	flags.StringVar(&o.store, "store", "", "put the results into the table of this `page`")
	flags.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "tulle-bench"), "run `folder`: sockets, logs, state; removed at the end")
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
	o.columns, err = chooseColumns(*columns, others)
	return o, err
}

func chooseColumns(wanted, others string) ([]column, error) {
	all := builtIn()
	for pair := range strings.SplitSeq(others, ",") {
		name, path, ok := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		if !ok || name == "" || slices.ContainsFunc(all, func(c column) bool { return c.name == name }) {
			return nil, fmt.Errorf("ZTUNNEL_BIN: %q: want name=path, with a name of its own", pair)
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("ZTUNNEL_BIN: %w", err)
		}
		all = append(all, column{name: name, binary: path})
	}
	if wanted == "" {
		return all, nil
	}
	var chosen []column
	for name := range strings.SplitSeq(wanted, ",") {
		i := slices.IndexFunc(all, func(c column) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-columns: there is no %q; ZTUNNEL_BIN=%s=path makes it a ztunnel's", name, name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// cores is what shares of the machine are of.
var cores = float64(runtime.NumCPU())
