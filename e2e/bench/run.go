package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/report"
)

// bench is a run of the benchmark.
type bench struct {
	options
	built   binaries
	sites   []*site
	repeats int    // that are left
	files   uint64 // that each program may have open
}

// run does everything. Whatever it made is gone when it returns, also after an error or when ctx ends.
func run(ctx context.Context, o options) (err error) {
	rows := chooseRows(o.rows)
	if len(rows) == 0 {
		return fmt.Errorf("-rows: no row is called so; there are: %s", strings.Join(rowNames(), ", "))
	}
	b := &bench{options: o, repeats: o.repeats}
	if b.files, err = openFiles(); err != nil {
		return err
	}
	lock, err := own(o.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer func() { err = errors.Join(err, b.down()) }()
	if err := b.build(ctx); err != nil {
		return err
	}
	results := &results{Started: time.Now().UTC(), Columns: b.names(), Rounds: o.rounds, Duration: o.duration.String(), Machine: report.Machine(), Environment: o.env, Busy: o.busy}
	for _, r := range rows {
		outcome, err := b.row(ctx, r)
		if err != nil {
			return fmt.Errorf("row %s: %w", r.name, err)
		}
		results.add(r, outcome)
		fmt.Print(results.table(len(results.Rows) - 1))
	}
	if err := b.proveAll(ctx); err != nil {
		return err
	}
	fmt.Print(results.verdict())
	return results.keep(o)
}

func rowNames() []string {
	var names []string
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return names
}

func (b *bench) names() []string {
	var names []string
	for _, c := range b.columns {
		names = append(names, c.name)
	}
	return names
}

// say reports progress.
func say(format string, arguments ...any) { fmt.Fprintf(os.Stderr, format+"\n", arguments...) }

func (b *bench) down() error {
	var errs []error
	for _, s := range b.sites {
		errs = append(errs, s.down())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(b.dir, binDir)), os.Remove(filepath.Join(b.dir, ownerFile))); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	os.Remove(b.dir) // stays if somebody else has something in it
	return nil
}

// row measures one row in all columns, which take turns. The outcome has the samples of each column, by its position.
func (b *bench) row(ctx context.Context, r row) ([][]sample, error) {
	outcome := make([][]sample, len(b.sites))
	if r.standard {
		defer b.ports(wideRange)
		if err := b.ports(standardRange); err != nil {
			return nil, err
		}
	}
	rounds, take := b.rounds, r.round
	if r.rounds > 0 {
		rounds = min(rounds, r.rounds)
	}
	if take == nil {
		take = (*bench).trafficRound
	}
	for round := range rounds {
		samples, err := take(b, ctx, r)
		if err != nil {
			return nil, err
		}
		for i, got := range samples {
			outcome[i] = append(outcome[i], got)
			say("%s · round %d · %s: %s", r.name, round+1, b.sites[i].name, describeSample(r, got))
		}
	}
	return outcome, nil
}

// ports sets the range of dialled ports in all pods.
func (b *bench) ports(ports string) error {
	for _, s := range b.sites {
		for _, side := range s.sides() {
			if err := setKernel(side.podNetns, "ipv4/ip_local_port_range", ports); err != nil {
				return err
			}
		}
	}
	return nil
}

func describeSample(r row, got sample) string {
	text := ""
	for _, m := range r.metrics {
		text += fmt.Sprintf("%s %s · ", report.Number(m.of(got)), m.unit)
	}
	text += fmt.Sprintf("others used %.0f %%", got.others*100)
	if got.apart > nearCores {
		text += fmt.Sprintf(" · the cores were far apart: %s", got.apart)
	}
	if got.failures > 0 {
		text += fmt.Sprintf(" · %d failures, such as: %s", got.failures, got.failure)
	}
	return text
}
