package main

import (
	"fmt"
	"regexp"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/load"
)

// metric is one figure of a row.
type metric struct {
	name, unit string
	target     target
	of         func(sample) float64 // NaN where it says nothing
}

// row is one kind of traffic, of which each sample gives all metrics.
type row struct {
	name     string
	job      load.Job
	metrics  []metric
	standard bool          // with the kernel's own range of ports
	longer   time.Duration // added to a sample
}

// sample is what was measured in one go.
type sample struct {
	elapsed          time.Duration
	bytes, ops       float64
	proxies          usage // CPU
	p50, p99         time.Duration
	failures         int64
	failure          string
	others           float64 // share of the machine
	clients, servers usage
}

// target is what a metric of our own columns has to reach. The zero target is none.
type target struct {
	limit    float64
	below    bool // at most, rather than at least
	absolute bool // not a ratio to the reference
}

func atLeast(ratio float64) target { return target{limit: ratio} }
func atMost(ratio float64) target  { return target{limit: ratio, below: true} }

func (t target) String() string {
	if t == (target{}) {
		return ""
	}
	sign, factor := "≥", "×"
	if t.below {
		sign = "≤"
	}
	if t.absolute {
		factor = ""
	}
	return fmt.Sprintf("%s %.4g%s", sign, t.limit, factor)
}

// met tells whether a value, and its ratio to the reference, reach the target.
func (t target) met(value, ratio float64) bool {
	if !t.absolute {
		value = ratio
	}
	return t.below && value <= t.limit || !t.below && value >= t.limit
}

// bulk is as much as possible in one direction.
func bulk(kind load.Kind, streams int, speed, cost target) row {
	return row{
		name: fmt.Sprintf("throughput %s %d", kind, streams), job: load.Job{Kind: kind, Conns: streams},
		metrics: []metric{
			{name: "throughput", unit: "Gbit/s", target: speed, of: func(s sample) float64 { return s.bytes * 8 / 1e9 / s.elapsed.Seconds() }},
			{name: "CPU", unit: "s/GB", target: cost, of: func(s sample) float64 { return s.proxies.total().Seconds() / s.bytes * 1e9 }},
			{name: "CPU, user", unit: "s/GB", of: func(s sample) float64 { return s.proxies.user.Seconds() / s.bytes * 1e9 }},
			{name: "CPU, system", unit: "s/GB", of: func(s sample) float64 { return s.proxies.system.Seconds() / s.bytes * 1e9 }},
		},
	}
}

// operations are the metrics of traffic that is counted.
func operations(speed, cost, median target) []metric {
	micro := func(d time.Duration, ops float64) float64 { return float64(d) / 1e3 / ops }
	return []metric{
		{name: "rate", unit: "/s", target: speed, of: func(s sample) float64 { return s.ops / s.elapsed.Seconds() }},
		{name: "CPU", unit: "µs/op", target: cost, of: func(s sample) float64 { return micro(s.proxies.total(), s.ops) }},
		{name: "CPU, user", unit: "µs/op", of: func(s sample) float64 { return micro(s.proxies.user, s.ops) }},
		{name: "CPU, system", unit: "µs/op", of: func(s sample) float64 { return micro(s.proxies.system, s.ops) }},
		{name: "p50", unit: "µs", target: median, of: func(s sample) float64 { return micro(s.p50, 1) }},
		{name: "p99", unit: "µs", of: func(s sample) float64 { return micro(s.p99, 1) }},
	}
}

func exchange(name string, size, conns int, metrics []metric) row {
	return row{name: name, job: load.Job{Kind: load.Exchange, Conns: conns, Size: size}, metrics: metrics}
}

func connections(workers int, speed, cost target) row {
	return row{
		name: fmt.Sprintf("connections %d", workers), job: load.Job{Kind: load.Connect, Conns: workers},
		metrics: operations(speed, cost, target{}),
	}
}

// allRows are the rows in their order, with the targets.
func allRows() []row {
	none := target{}
	return []row{
		bulk(load.Upload, 1, atLeast(0.37), atMost(3.9)),
		bulk(load.Upload, 8, atLeast(0.40), atMost(3.7)),
		bulk(load.Upload, 64, atLeast(0.38), atMost(3.2)),
		bulk(load.Download, 1, atLeast(0.37), atMost(3.9)),
		bulk(load.Download, 8, atLeast(0.40), atMost(3.7)),
		bulk(load.Download, 64, atLeast(0.38), atMost(3.2)),
		exchange("requests 1 KiB 64", 1024, 64, operations(atLeast(1.4), atMost(0.6), none)),
		exchange("ping-pong 1", 1, 1, operations(none, atMost(0.70), none)),
		exchange("ping-pong 64", 1, 64, operations(none, none, atMost(0.65))),
		connections(1, atLeast(1.3), none),
		connections(16, atLeast(1.4), none),
		connections(64, atLeast(1.3), atMost(0.65)),
		{
			name: "connections 64, standard ports", job: load.Job{Kind: load.Connect, Conns: 64}, standard: true, longer: standardLonger,
			metrics: operations(target{limit: 4000, absolute: true}, none, none),
		},
	}
}

// standardLonger lets all of the kernel's own ports be used at least once.
const standardLonger = 4 * time.Second

func chooseRows(pattern *regexp.Regexp) []row {
	var chosen []row
	for _, r := range allRows() {
		if pattern.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}
