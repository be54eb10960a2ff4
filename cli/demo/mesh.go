package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Label is the label that brings a namespace or a pod into the mesh, with the value Ambient.
const (
	Label   = "istio.io/dataplane-mode"
	Ambient = "ambient"
)

// dump is the part of a ztunnel's configuration dump that tells how workloads are reached.
type dump struct {
	Workloads []struct {
		Name, Namespace, Protocol string
	}
	Policies []struct {
		Name, Namespace string
	}
}

func (c *Cluster) dump(ctx context.Context, node string) (dump, error) {
	var d dump
	text, err := c.Get(ctx, node, "http://127.0.0.1:15000/config_dump")
	if err != nil {
		return d, fmt.Errorf("ask the ztunnel of %s what it knows: %w", node, err)
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return d, fmt.Errorf("read what the ztunnel of %s knows: %w", node, err)
	}
	return d, nil
}

// AwaitMeshed waits until every ztunnel has been told that the given pods accept tunnels, or that they don't. Pods
// whose node has captured their traffic are the ones announced, so from then on the mesh carries it.
func (c *Cluster) AwaitMeshed(ctx context.Context, meshed bool, pods ...string) error {
	want, what := "HBONE", "all ztunnels to know that %s is meshed"
	if !meshed {
		want, what = "TCP", "all ztunnels to know that %s isn't meshed"
	}
	return AwaitWithin(ctx, 20*time.Second, fmt.Sprintf(what, strings.Join(pods, ", ")), func(ctx context.Context) error {
		for _, node := range c.spec.Nodes {
			d, err := c.dump(ctx, node)
			if err != nil {
				return err
			}
			for _, pod := range pods {
				if got := d.protocol(pod); got != want {
					return fmt.Errorf("%s reaches %s by %q, want %q", node, pod, got, want)
				}
			}
		}
		return nil
	})
}

func (d dump) protocol(pod string) string {
	for _, w := range d.Workloads {
		if w.Name == pod {
			return w.Protocol
		}
	}
	return ""
}

// AwaitPolicies waits until every ztunnel knows exactly the given number of authorization policies.
func (c *Cluster) AwaitPolicies(ctx context.Context, count int) error {
	what := fmt.Sprintf("all ztunnels to have %d policies", count)
	return AwaitWithin(ctx, 20*time.Second, what, func(ctx context.Context) error {
		for _, node := range c.spec.Nodes {
			d, err := c.dump(ctx, node)
			if err != nil {
				return err
			}
			if len(d.Policies) != count {
				return fmt.Errorf("%s has %d", node, len(d.Policies))
			}
		}
		return nil
	})
}

// MetricLines returns the lines of a ztunnel's metrics that belong to a metric and contain all of the given words.
func (c *Cluster) MetricLines(ctx context.Context, node, metric string, words ...string) ([]string, error) {
	text, err := c.Get(ctx, node, "http://127.0.0.1:15020/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", node, err)
	}
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, metric+"{") {
			continue
		}
		matches := true
		for _, word := range words {
			matches = matches && strings.Contains(line, word)
		}
		if matches {
			out = append(out, line)
		}
	}
	return out, nil
}
