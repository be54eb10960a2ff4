package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/load"
)

const (
	warmUp   = 200 * time.Millisecond // before a sample
	settle   = 50 * time.Millisecond  // after it, for connections to end
	attempts = 4                      // at a quiet sample
)

// trafficRound takes a sample of each column, one after the other.
func (b *bench) trafficRound(ctx context.Context, r row) ([]sample, error) {
	var samples []sample
	for _, s := range b.sites {
		got, err := b.measure(ctx, s, r)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", s.name, err)
		}
		samples = append(samples, got)
	}
	return samples, nil
}

// measure takes a sample, and takes it again while others use the machine; the quietest one counts.
func (b *bench) measure(ctx context.Context, s *site, r row) (sample, error) {
	var best sample
	for attempt := range attempts {
		got, err := b.take(ctx, s, r)
		if err != nil {
			return got, err
		}
		if attempt == 0 || got.others < best.others {
			best = got
		}
		if best.others <= b.busy || b.repeats == 0 {
			break
		}
		b.repeats--
	}
	return best, nil
}

// take takes one sample of traffic.
func (b *bench) take(ctx context.Context, s *site, r row) (sample, error) {
	before := coreDistance()
	job := r.job
	job.To = s.to
	if err := s.client.load.Start(job); err != nil {
		return sample{}, errors.Join(err, s.alive())
	}
	got, err := b.watch(ctx, s, r)
	err = errors.Join(err, s.client.load.Stop())
	s.trimLogs()
	if err == nil {
		err = pause(ctx, settle)
	}
	got.apart = max(before, coreDistance())
	return got, err
}

// watch reads all counters at the begin and at the end of a sample.
func (b *bench) watch(ctx context.Context, s *site, r row) (sample, error) {
	if err := pause(ctx, warmUp+r.longer); err != nil {
		return sample{}, err
	}
	profiled := b.profile(ctx, s, r)
	before, err := b.read(s)
	if err != nil {
		return sample{}, err
	}
	if err := pause(ctx, b.duration); err != nil {
		return sample{}, err
	}
	after, err := b.read(s)
	if err != nil {
		return sample{}, err
	}
	got := after.since(before)
	got.proxied = !s.direct()
	return got, errors.Join(<-profiled, s.alive())
}

// reading is all counters of a site at one time.
type reading struct {
	at               time.Time
	client, server   load.Totals
	proxies          usage
	clients, servers usage // CPU of the load programs
	others           others
}

func (b *bench) read(s *site) (r reading, err error) {
	r.others = lookAtOthers(b.pids())
	if r.proxies, err = s.usage(); err != nil {
		return r, err
	}
	if r.clients, err = s.client.program.usage(); err != nil {
		return r, err
	}
	if r.servers, err = s.server.program.usage(); err != nil {
		return r, err
	}
	if r.server, err = s.server.load.Read(); err != nil {
		return r, err
	}
	r.client, err = s.client.load.Read()
	r.at = time.Now()
	return r, err
}

// since is what happened between two readings.
func (r reading) since(before reading) sample {
	return sample{
		elapsed:  r.at.Sub(before.at),
		bytes:    float64(r.client.Bytes + r.server.Bytes - before.client.Bytes - before.server.Bytes),
		ops:      float64(r.client.Ops - before.client.Ops),
		proxies:  r.proxies.minus(before.proxies),
		p50:      r.client.P50,
		p99:      r.client.P99,
		failures: r.client.Failures + r.server.Failures - before.client.Failures - before.server.Failures,
		failure:  r.client.Failure + r.server.Failure,
		others:   r.others.share(before.others),
		clients:  r.clients.minus(before.clients),
		servers:  r.servers.minus(before.servers),
	}
}

// pids are all processes of the benchmark.
func (b *bench) pids() []int {
	pids := []int{os.Getpid()}
	for _, s := range b.sites {
		for _, side := range s.sides() {
			pids = append(pids, side.program.pid())
		}
		for _, p := range s.proxies() {
			pids = append(pids, p.pid())
		}
		for _, p := range s.cluster.Processes() {
			pids = append(pids, p.Pid)
		}
	}
	return pids
}

// pause waits, or fails when the run is to end.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
