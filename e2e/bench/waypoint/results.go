package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/report"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

type field = exchange.Field

// figure is something of which there is one value, not one for each request.
type figure struct {
	name, unit string
	target     float64 // the most that it should be; 0 for none
	tail       bool    // it is the 99th percentile that should be so, rather than the median
}

var (
	ready       = figure{name: "ready after the start", unit: "ms", target: 50}
	idle        = figure{name: "resident, idle", unit: "MB", target: 20}
	tunnels     = figure{name: "resident, 1,000 tunnels with a connection each", unit: "MB", target: 50}
	connections = figure{name: "resident, 10,000 connections in 100 tunnels", unit: "MB"}
	routes      = figure{name: "resident, 5,000 routes and rules", unit: "MB", target: 60}
	changed     = figure{name: "a route's file changed, to the first answer by it", unit: "ms", target: 50, tail: true}
)

// sample is one measurement of a case.
type sample struct {
	Requests, Seconds float64
	User, System      float64 // CPU, in µs
	P50, P99          float64 // µs
}

func (s sample) cost() float64 { return (s.User + s.System) / s.Requests }

// results are everything that was measured.
type results struct {
	Started  time.Time
	Machine  string
	Rounds   int
	Duration string
	Costs    []*cost
	Figures  []*noted
}

// cost is a case by one waypoint, "" if it isn't one.
type cost struct {
	Case, By string
	Samples  []sample
	of       testCase
}

// noted is a figure of one waypoint.
type noted struct {
	Name, Unit, By string
	Values         []float64
	of             figure
}

func newResults(o options) *results {
	return &results{Started: time.Now(), Machine: report.Machine(), Rounds: o.rounds, Duration: o.duration.String()}
}

func (r *results) add(c testCase, by string, s sample) {
	i := slices.IndexFunc(r.Costs, func(other *cost) bool { return other.Case == c.name && other.By == by })
	if i < 0 {
		i = len(r.Costs)
		r.Costs = append(r.Costs, &cost{Case: c.name, By: by, of: c})
	}
	r.Costs[i].Samples = append(r.Costs[i].Samples, s)
}

func (r *results) note(f figure, by string, value float64) {
	i := slices.IndexFunc(r.Figures, func(other *noted) bool { return other.Name == f.name && other.By == by })
	if i < 0 {
		i = len(r.Figures)
		r.Figures = append(r.Figures, &noted{Name: f.name, Unit: f.unit, By: by, of: f})
	}
	r.Figures[i].Values = append(r.Figures[i].Values, value)
}

// of gathers one thing of all samples.
func (c *cost) all(what func(sample) float64) (values []float64) {
	for _, s := range c.Samples {
		values = append(values, what(s))
	}
	return values
}

// ratio is the median of the rounds' ratios to the case that it is compared with; 0 if there is none.
func (r *results) ratio(c *cost) float64 {
	for _, base := range r.Costs {
		if base.Case != c.of.of || base.By != "" && base.By != c.By {
			continue
		}
		var ratios []float64
		for i := range min(len(base.Samples), len(c.Samples)) {
			ratios = append(ratios, c.Samples[i].cost()/base.Samples[i].cost())
		}
		return median(ratios)
	}
	return 0
}

// lines are the cells of the table of costs.
func (r *results) lines() [][]string {
	lines := [][]string{{"", "CPU, µs", "user", "system", "ratio", "target", "p50, µs", "p99, µs", "requests/s"}}
	for _, c := range r.Costs {
		ratio, target := r.ratio(c), ""
		if c.of.target > 0 {
			target = fmt.Sprintf("≤ %.4g×", c.of.target) + verdict(ratio <= c.of.target)
		}
		times := ""
		if ratio > 0 {
			times = fmt.Sprintf("%.2f×", ratio)
		}
		lines = append(lines, []string{
			label(c.Case, c.By), spread(c.all(sample.cost)), report.Number(median(c.all(func(s sample) float64 { return s.User / s.Requests }))),
			report.Number(median(c.all(func(s sample) float64 { return s.System / s.Requests }))), times, target,
			report.Number(median(c.all(func(s sample) float64 { return s.P50 }))), report.Number(median(c.all(func(s sample) float64 { return s.P99 }))),
			report.Number(median(c.all(func(s sample) float64 { return s.Requests / s.Seconds }))),
		})
	}
	return lines
}

// figures are the cells of the other table.
func (r *results) figures() [][]string {
	lines := [][]string{{"", "median", "p99", "target"}}
	for _, f := range r.Figures {
		tail := ""
		if len(f.Values) >= 100 {
			tail = report.Number(quantile(f.Values, 0.99))
		}
		target := ""
		if f.of.target > 0 {
			value := median(f.Values)
			if f.of.tail {
				value = quantile(f.Values, 0.99)
			}
			target = "≤ " + report.Number(f.of.target) + verdict(value <= f.of.target)
		}
		lines = append(lines, []string{label(f.Name+", "+f.Unit, f.By), spread(f.Values), tail, target})
	}
	return lines
}

func label(name, by string) string {
	if by == "" || by == ours {
		return name
	}
	return name + " (" + by + ")"
}

func verdict(met bool) string {
	if met {
		return " ok"
	}
	return " MISS"
}

// table is both tables in Markdown, which people can read too.
func (r *results) table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s; %d rounds of %s; %s\n\n", r.Started.Format("2 January 2006"), r.Rounds, r.Duration, r.Machine)
	for i, lines := range [][][]string{r.lines(), r.figures()} {
		if len(lines) == 1 {
			continue
		}
		if i > 0 {
			out.WriteString("\n")
		}
		for i, cells := range lines {
			fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintf(&out, "|%s\n", strings.Repeat("---|", len(cells)))
			}
		}
	}
	return out.String()
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// quantile is the value below which a share q of all is.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// spread is the median, and between what the values are.
func spread(values []float64) string {
	text := report.Number(median(values))
	if len(values) > 1 {
		text += fmt.Sprintf(" [%s–%s]", report.Number(slices.Min(values)), report.Number(slices.Max(values)))
	}
	return text
}

// keep writes the results to where they are wished for.
func (r *results) keep(o options) error {
	if err := report.JSON(o.json, r); err != nil {
		return err
	}
	return report.Store(o.store, "bench-waypoint", r.table())
}
