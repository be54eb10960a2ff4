package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/load"
)

// idlePlan is how many idle connections are held, one number after the other; how long proxies are watched while they have
// nothing to do; and how long they get to give memory back after the last connection was closed.
type idlePlan struct {
	few, many    int
	watch, after time.Duration
}

func standardIdle() idlePlan {
	return idlePlan{few: 1000, many: 5000, watch: 5 * time.Second, after: 15 * time.Second}
}

// memoryRow is what proxies cost that have nothing to do.
func memoryRow() row {
	return row{name: "idle", round: (*bench).memoryRound, rounds: 3, metrics: []metric{
		{name: "CPU of one proxy", unit: "% of a core", target: absolute(0.1), of: value(valueIdleCPU)},
		{name: "resident, one proxy", unit: "MB", target: absolute(24), of: value(valueResident)},
		{name: "anonymous, one proxy", unit: "MB", target: absolute(10), of: value(valueAnonymous)},
		{name: "each of 1,000 connections, both ends", unit: "KiB", of: value(valueFew)},
		{name: "each of 5,000 connections, both ends", unit: "KiB", target: absolute(8), of: value(valueMany)},
		{name: "15 s after they closed", unit: "× idle", target: absolute(1.2), of: value(valueAfter)},
	}}
}

// memoryRound measures all columns at the same time: memory doesn't depend on what others do.
func (b *bench) memoryRound(ctx context.Context, _ row) ([]sample, error) {
	samples := make([]sample, len(b.sites))
	for i, s := range b.sites {
		samples[i].values = map[string]float64{}
		if !b.holdsMany(s) {
			continue
		}
		if err := s.restart(ctx); err != nil {
			return nil, fmt.Errorf("column %s: %w", s.name, err)
		}
		if _, err := s.client.load.First(s.to); err != nil {
			return nil, fmt.Errorf("column %s: %w", s.name, errors.Join(err, s.alive()))
		}
	}
	ended := make(chan error)
	for i, s := range b.sites {
		go func() { ended <- b.memorySample(ctx, s, samples[i]) }()
	}
	var errs []error
	for range b.sites {
		errs = append(errs, <-ended)
	}
	return samples, errors.Join(errs...)
}

// holdsMany is false for a column without proxies, and for splice relays which may not open as many files as they need.
func (b *bench) holdsMany(s *site) bool {
	return !s.direct() && (s.role != roleRelay || b.files > uint64(b.idle.many)*filesOfSplice)
}

func (b *bench) memorySample(ctx context.Context, s *site, got sample) error {
	if !b.holdsMany(s) {
		return nil
	}
	if err := s.measureIdle(ctx, got.values); err != nil {
		return fmt.Errorf("column %s: %w", s.name, errors.Join(err, s.alive()))
	}
	return nil
}

// measureIdle fills in the values of one column, whose proxies are fresh.
func (s *site) measureIdle(ctx context.Context, values map[string]float64) error {
	if err := s.idleCPU(ctx, values); err != nil {
		return err
	}
	idle, err := s.memory()
	if err != nil {
		return err
	}
	values[valueResident], values[valueAnonymous] = idle.largest.resident/1e6, idle.largest.anonymous/1e6
	plan := s.options.idle
	for _, held := range []struct {
		name  string
		count int
	}{{valueFew, plan.few}, {valueMany, plan.many}} {
		full, err := s.hold(ctx, held.count)
		if err != nil {
			return err
		}
		values[held.name] = (full.resident - idle.resident) / float64(held.count) / 1024
	}
	if err := pause(ctx, plan.after); err != nil {
		return err
	}
	after, err := s.memory()
	values[valueAfter] = after.resident / idle.resident
	return err
}

// idleCPU is the share of a core that the busier proxy uses.
func (s *site) idleCPU(ctx context.Context, values map[string]float64) error {
	var before []running
	for _, p := range s.proxies() {
		spent, err := p.running()
		if err != nil {
			return err
		}
		before = append(before, spent)
	}
	began := time.Now()
	if err := pause(ctx, s.options.idle.watch); err != nil {
		return err
	}
	for i, p := range s.proxies() {
		spent, err := p.running()
		if err != nil {
			return err
		}
		values[valueIdleCPU] = max(values[valueIdleCPU], 100*float64(spent.minus(before[i]).time)/float64(time.Since(began)))
	}
	return nil
}

// hold is the memory with so many idle connections.
func (s *site) hold(ctx context.Context, count int) (footprint, error) {
	if err := s.client.load.Start(load.Job{Kind: load.Idle, To: s.to, Conns: count}); err != nil {
		return footprint{}, err
	}
	if err := pause(ctx, calm); err != nil {
		return footprint{}, err
	}
	held, err := s.memory()
	return held, errors.Join(err, s.client.load.Stop())
}

// footprint is the memory of both proxies, and of the larger one.
type footprint struct {
	memory
	largest memory
}

func (s *site) memory() (footprint, error) {
	var f footprint
	for _, p := range s.proxies() {
		m, err := p.memory()
		if err != nil {
			return f, err
		}
		f.resident += m.resident
		f.anonymous += m.anonymous
		if m.resident > f.largest.resident {
			f.largest = m
		}
	}
	return f, nil
}
