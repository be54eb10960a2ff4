package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/e2e/bench/load"
)

const (
	proofTime = 300 * time.Millisecond
	metricURL = "http://127.0.0.1:15020/metrics"
	opened    = "istio_tcp_connections_opened_total"
	mutualTLS = `connection_security_policy="mutual_tls"`
)

// prove starts the proxies under a capture of all that goes between the nodes, and fails if that isn't mutual TLS.
func (s *site) prove(ctx context.Context) error {
	wire, err := s.cluster.Watch(s.client.node, load.Marker)
	if err != nil {
		return err
	}
	err = s.ready()
	if err == nil {
		err = s.client.load.Start(load.Job{Kind: load.Exchange, To: s.to, Conns: 1, Size: 1024})
	}
	if err == nil {
		err = errors.Join(pause(ctx, proofTime), s.client.load.Stop())
	}
	report, wireErr := wire.Stop()
	if err := errors.Join(err, wireErr); err != nil {
		return err
	}
	if err := encrypted(report); err != nil {
		return fmt.Errorf("traffic between the nodes is not mutual TLS: %w", err)
	}
	return s.proveCounts(ctx)
}

// encrypted judges what a capture saw.
func encrypted(r demo.Report) error {
	switch {
	case len(r.Seen(load.Marker)) > 0:
		return fmt.Errorf("payload was seen in the clear: %+v", r.Seen(load.Marker)[0])
	case r.Plain > 0:
		return fmt.Errorf("%d packets on port %d were not TLS", r.Plain, demo.HBONEPort)
	case r.Handshakes["TLS 1.3"] == 0 || len(r.Handshakes) > 1:
		return fmt.Errorf("handshakes on port %d: %v", demo.HBONEPort, r.Handshakes)
	case r.Records == 0:
		return fmt.Errorf("no TLS records were seen on port %d", demo.HBONEPort)
	}
	return nil
}

// proveAll looks at the counts of all ztunnels at the end of the run.
func (b *bench) proveAll(ctx context.Context) error {
	for _, s := range b.sites {
		if s.ztunnel() {
			if err := s.proveCounts(ctx); err != nil {
				return fmt.Errorf("column %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// proveCounts fails unless both ztunnels have counted connections, and all of them as mutual TLS.
func (s *site) proveCounts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, side := range s.sides() {
		text, err := get(ctx, side.nodeNetns, metricURL)
		if err != nil {
			return fmt.Errorf("metrics of node %s: %w", side.node, err)
		}
		secure, all := countOpened(string(text))
		if secure == 0 || secure != all {
			return fmt.Errorf("node %s counts %g connections by mutual TLS, of %g", side.node, secure, all)
		}
	}
	return nil
}

// countOpened sums the connections in a page of metrics.
func countOpened(page string) (secure, all float64) {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, opened+"{") {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, '}')+1:]), 64)
		if err != nil {
			continue
		}
		all += value
		if strings.Contains(line, mutualTLS) {
			secure += value
		}
	}
	return secure, all
}
