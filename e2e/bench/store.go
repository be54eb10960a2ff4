package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// keep writes the results to where they are wished for.
func (r *results) keep(o options) error {
	if o.json != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if o.store == "" {
		return nil
	}
	page, err := os.ReadFile(o.store)
	if err != nil {
		return err
	}
	if page, err = r.into(page); err != nil {
		return fmt.Errorf("%s: %w", o.store, err)
	}
	return os.WriteFile(o.store, page, 0o644)
}

// What is between these lines of a page is rewritten.
const (
	tableBegin = "<!-- make bench: begin -->\n"
	tableEnd   = "<!-- make bench: end -->\n"
)

// into replaces the table of a page.
func (r *results) into(page []byte) ([]byte, error) {
	before, rest, begin := bytes.Cut(page, []byte(tableBegin))
	_, after, end := bytes.Cut(rest, []byte(tableEnd))
	if !begin || !end {
		return nil, fmt.Errorf("it has no place for a table, between the lines %q and %q", tableBegin, tableEnd)
	}
	return bytes.Join([][]byte{before, []byte(tableBegin), []byte(r.markdown()), []byte(tableEnd), after}, nil), nil
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

// describeMachine is what figures depend on.
func describeMachine() string {
	version, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpu := "unknown CPU"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, %s", runtime.NumCPU(), cpu, strings.TrimSpace(string(version)), runtime.Version())
}
