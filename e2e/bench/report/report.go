// Package report is how benches tell their figures: of which machine, with three digits, as JSON, as the table of a page.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
)

// Machine is what figures depend on.
func Machine() string {
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

// Number has three significant digits, or at most three behind the point.
func Number(v float64) string {
	switch abs := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	case abs >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// JSON writes results to a file; none is "".
func JSON(file string, results any) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// Store puts the table of a target of the Makefile into its place on a page; none is "".
func Store(page, target, table string) error {
	if page == "" {
		return nil
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	if text, err = into(text, target, table); err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, text, 0o644)
}

// into replaces what is between two lines of a page.
func into(page []byte, target, table string) ([]byte, error) {
	first, last := fmt.Sprintf("<!-- make %s: begin -->\n", target), fmt.Sprintf("<!-- make %s: end -->\n", target)
	before, rest, begin := bytes.Cut(page, []byte(first))
	_, after, end := bytes.Cut(rest, []byte(last))
	if !begin || !end {
		return nil, fmt.Errorf("it has no place for a table, between the lines %q and %q", first, last)
	}
	return bytes.Join([][]byte{before, []byte(first), []byte(table), []byte(last), after}, nil), nil
}
