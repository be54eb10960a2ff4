package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Values of the rows that aren't traffic.
const (
	valueStart     = "start"
	valueFirst     = "first"
	valueFirstCPU  = "first CPU"
	valueTurns     = "first turns"
	valueIdleCPU   = "idle CPU"
	valueResident  = "resident"
	valueAnonymous = "anonymous"
	valueFew       = "few"
	valueMany      = "many"
	valueAfter     = "after"
)

// calm is how long proxies get for what they do by themselves after their start, such as fetching certificates.
const calm = 500 * time.Millisecond

func absolute(limit float64) target { return target{limit: limit, absolute: true, below: true} }

func value(name string) func(sample) float64 { return func(s sample) float64 { return s.value(name) } }

// startRow is how long it takes until proxies work, and until two that do have a tunnel.
func startRow() row {
	return row{name: "start", round: (*bench).startRound, metrics: []metric{
		{name: "start to first byte", unit: "ms", target: absolute(60), of: value(valueStart)},
		{name: "first byte of a cold pair", unit: "ms", target: absolute(4), of: value(valueFirst)},
		{name: "CPU of a cold pair, both proxies", unit: "ms", of: value(valueFirstCPU)},
		{name: "how often their threads got a core", unit: "1", of: value(valueTurns)},
	}}
}

func (b *bench) startRound(ctx context.Context, _ row) ([]sample, error) {
	var samples []sample
	for _, s := range b.sites {
		before := lookAtOthers(b.pids())
		values, err := s.measureStart(ctx)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", s.name, err)
		}
		samples = append(samples, sample{values: values, others: lookAtOthers(b.pids()).share(before)})
	}
	return samples, nil
}

// measureStart restarts the proxies twice: the first byte is awaited at once, or when all else is ready.
func (s *site) measureStart(ctx context.Context) (map[string]float64, error) {
	values := map[string]float64{}
	if !s.direct() {
		if err := s.retire(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := s.start(); err != nil {
			return nil, err
		}
		first, err := s.client.load.First(s.to)
		if err != nil {
			return nil, errors.Join(err, s.alive())
		}
		values[valueStart] = milliseconds(first.At.Sub(began))
		if err := s.restart(ctx); err != nil {
			return nil, err
		}
	}
	before, err := s.running()
	if err != nil {
		return nil, err
	}
	first, err := s.client.load.First(s.to)
	if err != nil {
		return nil, errors.Join(err, s.alive())
	}
	values[valueFirst] = milliseconds(first.At.Sub(first.Began))
	after, err := s.running()
	if !s.direct() {
		spent := after.minus(before)
		values[valueFirstCPU], values[valueTurns] = milliseconds(spent.time), float64(spent.turns)
	}
	return values, err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// retire stops the proxies, after a look at what they have counted.
func (s *site) retire(ctx context.Context) error {
	if s.ztunnel() {
		if err := s.proveCounts(ctx); err != nil {
			return err
		}
	}
	s.stop()
	return nil
}

// restart replaces the proxies by fresh ones that are ready but have no tunnel.
func (s *site) restart(ctx context.Context) error {
	if err := s.retire(ctx); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	if s.ztunnel() {
		if err := s.awaitReady(ctx); err != nil {
			return err
		}
	}
	return pause(ctx, calm)
}

// awaitReady waits until both ztunnels say that they are.
func (s *site) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, side := range s.sides() {
		client := clientIn(side.nodeNetns)
		for {
			_, err := fetch(ctx, client, "http://127.0.0.1:15021/healthz/ready")
			if err == nil {
				break
			}
			if pauseErr := pause(ctx, 20*time.Millisecond); pauseErr != nil {
				return fmt.Errorf("the ztunnel of node %s is not ready: %w", side.node, errors.Join(err, s.alive()))
			}
		}
		client.CloseIdleConnections()
	}
	return nil
}
