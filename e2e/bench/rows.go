package main

import (
	"context"
	"fmt"
	"math"
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

// row is one kind of traffic, or of its absence. Each sample gives all metrics.
type row struct {
	name     string
	metrics  []metric
	job      load.Job
	standard bool          // with the kernel's own range of ports
	longer   time.Duration // added to the time before a sample
	rounds   int           // at most; 0 means all

	// round takes a sample of each column; nil means of the job, one column after the other.
	round func(*bench, context.Context, row) ([]sample, error)
}

// sample is what was measured in one go.
type sample struct {
	values           map[string]float64 // of a row that isn't traffic; it has nothing of the rest but others
	elapsed          time.Duration
	bytes, ops       float64
	proxied          bool
	proxies          usage // CPU
	p50, p99         time.Duration
	failures         int64
	failure          string
	others           float64       // share of the machine
	apart            time.Duration // coreDistance
	clients, servers usage
}

// value is NaN where the sample has none.
func (s sample) value(name string) float64 {
	if v, ok := s.values[name]; ok {
		return v
	}
	return math.NaN()
}

// cost is a CPU time of the proxies in some unit for each of so many; NaN without proxies.
func (s sample) cost(spent, unit time.Duration, count float64) float64 {
	if !s.proxied {
		return math.NaN()
	}
	return float64(spent) / float64(unit) / count
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
			{name: "CPU", unit: "s/GB", target: cost, of: func(s sample) float64 { return s.cost(s.proxies.total(), time.Second, s.bytes/1e9) }},
			{name: "CPU, user", unit: "s/GB", of: func(s sample) float64 { return s.cost(s.proxies.user, time.Second, s.bytes/1e9) }},
			{name: "CPU, system", unit: "s/GB", of: func(s sample) float64 { return s.cost(s.proxies.system, time.Second, s.bytes/1e9) }},
		},
	}
}

// operations are the metrics of traffic that is counted.
func operations(speed, cost, median target) []metric {
	return []metric{
		{name: "rate", unit: "/s", target: speed, of: func(s sample) float64 { return s.ops / s.elapsed.Seconds() }},
		{name: "CPU", unit: "µs/op", target: cost, of: func(s sample) float64 { return s.cost(s.proxies.total(), time.Microsecond, s.ops) }},
		{name: "CPU, user", unit: "µs/op", of: func(s sample) float64 { return s.cost(s.proxies.user, time.Microsecond, s.ops) }},
		{name: "CPU, system", unit: "µs/op", of: func(s sample) float64 { return s.cost(s.proxies.system, time.Microsecond, s.ops) }},
		{name: "p50", unit: "µs", target: median, of: func(s sample) float64 { return float64(s.p50) / float64(time.Microsecond) }},
		{name: "p99", unit: "µs", of: func(s sample) float64 { return float64(s.p99) / float64(time.Microsecond) }},
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
		startRow(),
		memoryRow(),
	}
}

// standardLonger lets all of the kernel's own ports be used at least once.
const standardLonger = 2 * time.Second

func chooseRows(pattern *regexp.Regexp) []row {
	var chosen []row
	for _, r := range allRows() {
		if pattern.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}
