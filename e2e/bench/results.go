package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/report"
)

// results are everything that was measured.
type results struct {
	Started     time.Time
	Machine     string
	Columns     []string
	Rounds      int
	Duration    string
	Environment []string `json:",omitempty"`
	Busy        float64  // more than this share of the machine used by others is worth a word
	Rows        []rowResult
}

type rowResult struct {
	Name     string
	Metrics  []metricResult
	Failures map[string]int64    // by column
	Others   map[string]float64  // the largest share of the machine that others used, by column
	Far      map[string]int      // samples during which cores were far apart, by column
	Samples  map[string][]sample // by column
}

type metricResult struct {
	Name, Unit, Target string
	Cells              map[string]cell // by column

	target target
}

// cell is one figure of one column.
type cell struct {
	Median, Min, Max float64
	Ratio            float64   `json:",omitempty"` // of the medians, to the reference
	Met              *bool     `json:",omitempty"` // nil: no target
	Values           []float64 // of the rounds
}

func (r *results) add(w row, outcome [][]sample) {
	result := rowResult{Name: w.name, Failures: map[string]int64{}, Others: map[string]float64{}, Far: map[string]int{}, Samples: map[string][]sample{}}
	for i, column := range r.Columns {
		result.Samples[column] = outcome[i]
		for _, s := range outcome[i] {
			result.Failures[column] += s.failures
			result.Others[column] = max(result.Others[column], s.others)
			if s.apart > nearCores {
				result.Far[column]++
			}
		}
	}
	for _, m := range w.metrics {
		figure := metricResult{Name: m.name, Unit: m.unit, Target: m.target.String(), Cells: map[string]cell{}, target: m.target}
		for i, column := range r.Columns {
			if c, ok := summarize(m, outcome[i]); ok {
				figure.Cells[column] = c
			}
		}
		figure.judge()
		result.Metrics = append(result.Metrics, figure)
	}
	r.Rows = append(r.Rows, result)
}

// summarize is false for a figure that says nothing, such as the CPU time of no proxy.
func summarize(m metric, samples []sample) (cell, bool) {
	var values []float64
	for _, s := range samples {
		if v := m.of(s); !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return cell{}, false
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return cell{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], Values: values}, true
}

// judge fills in ratios and verdicts.
func (m *metricResult) judge() {
	base := m.Cells[reference]
	comparable := base.Median > 0
	for column, c := range m.Cells {
		if comparable && column != reference {
			c.Ratio = c.Median / base.Median
		}
		if m.target != (target{}) && isZtunnel(column) && (comparable || m.target.absolute) {
			met := m.target.met(c.Median, c.Ratio)
			c.Met = &met
		}
		m.Cells[column] = c
	}
}

// isZtunnel tells whether a column has to reach targets.
func isZtunnel(name string) bool {
	return !slices.ContainsFunc(builtIn(), func(c column) bool { return c.name == name && !c.ztunnel() })
}

// table is one row for people.
func (r *results) table(at int) string {
	w := r.Rows[at]
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%s\t%s\ttarget\n", w.Name, strings.Join(r.Columns, "\t"))
	for _, m := range w.Metrics {
		fmt.Fprintf(table, "  %s, %s", m.Name, m.Unit)
		for _, column := range r.Columns {
			fmt.Fprintf(table, "\t%s", m.Cells[column])
		}
		fmt.Fprintf(table, "\t%s\n", m.Target)
	}
	table.Flush()
	for _, column := range r.Columns {
		if w.Failures[column] > 0 {
			fmt.Fprintf(&out, "  %s: %d operations failed\n", column, w.Failures[column])
		}
	}
	if busy := r.busy(w); len(busy) > 0 {
		fmt.Fprintf(&out, "  others used the machine (%s): run it again when they are quiet\n", strings.Join(busy, ", "))
	}
	if far := r.far(w); len(far) > 0 {
		fmt.Fprintf(&out, "  the hypervisor had moved the cores far apart (%s)\n", strings.Join(far, ", "))
	}
	return out.String() + "\n"
}

// far lists the columns of a row with samples during which the cores were far apart.
func (r *results) far(w rowResult) []string {
	var far []string
	for _, column := range r.Columns {
		if n := w.Far[column]; n > 0 {
			far = append(far, fmt.Sprintf("%s: %d of %d samples", column, n, len(w.Samples[column])))
		}
	}
	return far
}

// busy lists the columns of a row which were measured on a busy machine.
func (r *results) busy(w rowResult) []string {
	var busy []string
	for _, column := range r.Columns {
		if w.Others[column] > r.Busy {
			busy = append(busy, fmt.Sprintf("%s: %.0f %%", column, w.Others[column]*100))
		}
	}
	return busy
}

// String is median [min–max] ratio verdict.
func (c cell) String() string {
	if len(c.Values) == 0 {
		return "–"
	}
	text := report.Number(c.Median)
	if len(c.Values) > 1 {
		text += fmt.Sprintf(" [%s–%s]", report.Number(c.Min), report.Number(c.Max))
	}
	if c.Ratio > 0 {
		text += fmt.Sprintf(" %.2f×", c.Ratio)
	}
	switch {
	case c.Met == nil:
	case *c.Met:
		text += " ok"
	default:
		text += " MISS"
	}
	return text
}

// verdict lists the targets that were missed, by column.
func (r *results) verdict() string {
	text := ""
	for _, column := range r.Columns {
		met, missed := 0, []string{}
		for _, w := range r.Rows {
			for _, m := range w.Metrics {
				switch c := m.Cells[column]; {
				case c.Met == nil:
				case *c.Met:
					met++
				default:
					missed = append(missed, w.Name+": "+m.Name)
				}
			}
		}
		if met+len(missed) > 0 {
			text += fmt.Sprintf("%s: %d targets reached, %d missed%s\n", column, met, len(missed), list(missed))
		}
	}
	return text
}

func list(items []string) string {
	if len(items) == 0 {
		return ""
	}
	return " (" + strings.Join(items, "; ") + ")"
}
