package main

import (
	"strings"
	"testing"
)

func TestTablesShowRatiosOfRoundsAndVerdicts(t *testing.T) {
	r := newResults(options{rounds: 3})
	took := func(name, of string, target float64, cpu ...float64) {
		for _, each := range cpu {
			r.add(testCase{name: name, of: of, target: target}, "", sample{Requests: 10, Seconds: 1, User: each * 10})
		}
	}
	took("plain", "", 0, 100, 10, 1000)
	took("good", "plain", 0.4, 40, 3, 390)
	took("bad", "plain", 0.4, 50, 5, 500)
	for i := range 100 {
		r.note(changed, ours, float64(i))
	}
	r.note(idle, "other", 19)
	got := r.table()
	for _, want := range []string{
		"| plain | 100 [10.0–1000] | 100 | 0.000 |  |  |", "| good | 40.0 [3.00–390] | 40.0 | 0.000 | 0.39× | ≤ 0.4× ok |", "| 0.50× | ≤ 0.4× MISS |",
		"| 49.5 [0.000–99.0] | 99.0 | ≤ 50.0 MISS |", "| resident, idle, MB (other) | 19.0 |  | ≤ 20.0 ok |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestEveryTargetIsComparedWithACaseOfTheBenchmark(t *testing.T) {
	names := map[string]bool{}
	for _, c := range cases() {
		if names[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		names[c.name] = true
	}
	for _, c := range cases() {
		if c.of != "" && !names[c.of] || c.target > 0 && c.of == "" {
			t.Errorf("%s is compared with %q", c.name, c.of)
		}
	}
}
