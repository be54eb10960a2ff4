package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/report"
)

// figure is one thing that is measured of each size.
type figure struct {
	name, unit    string
	of10k, of100k target // for that many pods; zero for none
}

// target is what a figure should reach.
type target struct {
	limit   float64
	atLeast bool // otherwise at most
}

func (t target) met(v float64) bool { return v == t.limit || t.atLeast == (v > t.limit) }

func (t target) String() string {
	if t.atLeast {
		return "≥ " + report.Number(t.limit)
	}
	return "≤ " + report.Number(t.limit)
}

func atMost(limit float64) target  { return target{limit: limit} }
func atLeast(limit float64) target { return target{limit: limit, atLeast: true} }

// target is the one for a size.
func (f figure) target(pods int) target {
	switch pods {
	case 10000:
		return f.of10k
	case 100000:
		return f.of100k
	}
	return target{}
}

// The figures, in the order of the table.
var (
	firstSnapshot = figure{name: "start to the first full snapshot", unit: "s", of10k: atMost(3)}
	heap0         = figure{name: "live heap without clients", unit: "MiB", of10k: atMost(45)}
	resident0     = figure{name: "resident without clients", unit: "MiB"}
	anonymous0    = figure{name: "anonymous without clients", unit: "MiB"}
	heap10        = figure{name: "live heap with 10 clients", unit: "MiB"}
	resident10    = figure{name: "resident with 10 clients", unit: "MiB"}
	anonymous10   = figure{name: "anonymous with 10 clients", unit: "MiB"}
	coldTime      = figure{name: "all clients cold at once: until all have everything", unit: "s"}
	peakResident  = figure{name: "meanwhile at most resident", unit: "MiB"}
	peakAnonymous = figure{name: "meanwhile at most anonymous", unit: "MiB", of10k: atMost(150)}
	heap100       = figure{name: "live heap with all clients", unit: "MiB"}
	resident100   = figure{name: "resident with all clients", unit: "MiB", of100k: atMost(600)}
	anonymous100  = figure{name: "anonymous with all clients", unit: "MiB", of10k: atMost(100)}
	againTime     = figure{name: "all clients back with their versions", unit: "s", of10k: atMost(1)}
	againBytes    = figure{name: "meanwhile sent to each", unit: "kB", of10k: atMost(0.3)}
	againCPU      = figure{name: "meanwhile CPU for each", unit: "ms"}
	againPeak     = figure{name: "meanwhile at most anonymous", unit: "MiB"}
	certsCached   = figure{name: "certificates", unit: "1/s", of10k: atLeast(2000)}
	certsOthers   = figure{name: "certificates: used by others meanwhile", unit: "% of the machine"}
	startOthers   = figure{name: "starts: used by others meanwhile", unit: "% of the machine"}
	certsReviewed = figure{name: "certificates for callers never seen before", unit: "1/s", of10k: atLeast(600)}
)

// rateFigures are those of changes at one rate.
type rateFigures struct{ p50, p99, cpu, bytes, messages, others figure }

var at = []rateFigures{
	{
		p50:      figure{name: "20 changes/s: later than a plain watch, p50", unit: "ms", of10k: atMost(5)},
		p99:      figure{name: "20 changes/s: later than a plain watch, p99", unit: "ms", of10k: atMost(20)},
		cpu:      figure{name: "20 changes/s: CPU of a change", unit: "ms"},
		bytes:    figure{name: "20 changes/s: bytes of a change to a client", unit: "B"},
		messages: figure{name: "20 changes/s: messages of a change to a client", unit: "1"},
		others:   figure{name: "20 changes/s: used by others meanwhile", unit: "% of the machine"},
	},
	{
		p50:      figure{name: "100 changes/s: later than a plain watch, p50", unit: "ms", of10k: atMost(15)},
		p99:      figure{name: "100 changes/s: later than a plain watch, p99", unit: "ms", of10k: atMost(50)},
		cpu:      figure{name: "100 changes/s: CPU of a change", unit: "ms", of10k: atMost(3.5)},
		bytes:    figure{name: "100 changes/s: bytes of a change to a client", unit: "B"},
		messages: figure{name: "100 changes/s: messages of a change to a client", unit: "1"},
		others:   figure{name: "100 changes/s: used by others meanwhile", unit: "% of the machine"},
	},
}

// figures lists all of them.
func figures() []figure {
	all := []figure{
		firstSnapshot, startOthers, heap0, resident0, anonymous0, heap10, resident10, anonymous10, coldTime, peakResident, peakAnonymous, heap100, resident100, anonymous100,
	}
	for _, rate := range at {
		all = append(all, rate.p50, rate.p99, rate.cpu, rate.bytes, rate.messages, rate.others)
	}
	return append(all, againTime, againBytes, againCPU, againPeak, certsCached, certsReviewed, certsOthers)
}

// results are everything that was measured.
type results struct {
	Started  time.Time
	Machine  string
	Clients  int
	Duration string
	Pods     []int
	Rows     []*row
}

type row struct {
	Name, Unit string
	Values     map[int]float64 // by pods
	figure     figure
}

func newResults(o options) *results {
	r := &results{Started: time.Now(), Machine: report.Machine(), Clients: o.clients, Duration: o.duration.String()}
	for _, f := range figures() {
		r.Rows = append(r.Rows, &row{Name: f.name, Unit: f.unit, Values: map[int]float64{}, figure: f})
	}
	return r
}

func (r *results) add(pods int, values map[figure]float64) {
	r.Pods = append(r.Pods, pods)
	for _, each := range r.Rows {
		if v, measured := values[each.figure]; measured {
			each.Values[pods] = v
		}
	}
}

// cell is a figure with its verdict.
func (w *row) cell(pods int) string {
	v, measured := w.Values[pods]
	if !measured {
		return "–"
	}
	switch goal := w.figure.target(pods); {
	case goal == target{}:
		return report.Number(v)
	case goal.met(v):
		return fmt.Sprintf("%s ok (%s)", report.Number(v), goal)
	default:
		return fmt.Sprintf("%s MISS (%s)", report.Number(v), goal)
	}
}

// table is for people at a terminal.
func (r *results) table() string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\n", strings.Join(r.columns(), "\t"))
	for _, each := range r.Rows {
		fmt.Fprintf(w, "%s, %s\t%s\n", each.Name, each.Unit, strings.Join(each.cells(r.Pods), "\t"))
	}
	w.Flush()
	return out.String()
}

func (r *results) columns() []string {
	var names []string
	for _, pods := range r.Pods {
		names = append(names, fmt.Sprintf("%d pods", pods))
	}
	return names
}

func (w *row) cells(sizes []int) []string {
	var cells []string
	for _, pods := range sizes {
		cells = append(cells, w.cell(pods))
	}
	return cells
}

// markdown is the table of a page.
func (r *results) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d clients, %s of changes at each rate; %s\n\n", r.Clients, r.Duration, r.Machine)
	fmt.Fprintf(&out, "| | %s |\n|---|%s\n", strings.Join(r.columns(), " | "), strings.Repeat("---|", len(r.Pods)))
	for _, each := range r.Rows {
		fmt.Fprintf(&out, "| %s, %s | %s |\n", each.Name, each.Unit, strings.Join(each.cells(r.Pods), " | "))
	}
	return out.String()
}

// keep writes the results to where they are wished for.
func (r *results) keep(o options) error {
	if err := report.JSON(o.json, r); err != nil {
		return err
	}
	return report.Store(o.store, "bench-controlplane", r.markdown())
}
