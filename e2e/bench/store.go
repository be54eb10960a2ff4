package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/e2e/bench/report"
)

// keep writes the results to where they are wished for.
func (r *results) keep(o options) error {
	if err := report.JSON(o.json, r); err != nil {
		return err
	}
	return report.Store(o.store, "bench", r.markdown())
}

// markdown is all rows as one table.
func (r *results) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s; %d rounds of %s; %s\n\n", r.Started.Format("2 January 2006"), r.Rounds, r.Duration, r.Machine)
	fmt.Fprintf(&out, "| | %s | target |\n|---|%s---|\n", strings.Join(r.Columns, " | "), strings.Repeat("---|", len(r.Columns)))
	for _, w := range r.Rows {
		fmt.Fprintf(&out, "| **%s** |%s |\n", w.Name, strings.Repeat(" |", len(r.Columns)))
		if far := r.far(w); len(far) > 0 {
			fmt.Fprintf(&out, "| *cores far apart: %s* |%s |\n", strings.Join(far, ", "), strings.Repeat(" |", len(r.Columns)))
		}
		for _, m := range w.Metrics {
			fmt.Fprintf(&out, "| %s, %s", m.Name, m.Unit)
			for _, column := range r.Columns {
				fmt.Fprintf(&out, " | %s", m.Cells[column])
			}
			fmt.Fprintf(&out, " | %s |\n", m.Target)
		}
	}
	return out.String()
}

// MarshalJSON implements json.Marshaler: times in seconds.
func (s sample) MarshalJSON() ([]byte, error) {
	fields := map[string]any{"others": s.others}
	if s.values != nil {
		fields["values"] = s.values
		return json.Marshal(fields)
	}
	for name, u := range map[string]usage{"proxies": s.proxies, "clients": s.clients, "servers": s.servers} {
		fields[name] = map[string]float64{"user": u.user.Seconds(), "system": u.system.Seconds()}
	}
	fields["apart"] = s.apart.Seconds()
	fields["elapsed"], fields["bytes"], fields["operations"] = s.elapsed.Seconds(), s.bytes, s.ops
	fields["p50"], fields["p99"] = s.p50.Seconds(), s.p99.Seconds()
	fields["failures"], fields["failure"] = s.failures, s.failure
	return json.Marshal(fields)
}
