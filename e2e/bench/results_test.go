package main

import (
	"strings"
	"testing"
	"time"
)

func TestTargetsAreJudged(t *testing.T) {
	for _, c := range []struct {
		target       target
		value, ratio float64
		want         bool
	}{
		{atLeast(1.4), 100, 1.4, true},
		{atLeast(1.4), 100, 1.39, false},
		{atMost(0.6), 100, 0.6, true},
		{atMost(0.6), 100, 0.61, false},
		{target{limit: 4000, absolute: true}, 4000, 0.1, true},
		{target{limit: 4000, absolute: true}, 3999, 9, false},
		{target{limit: 24, absolute: true, below: true}, 23, 9, true},
	} {
		if got := c.target.met(c.value, c.ratio); got != c.want {
			t.Errorf("%v with value %v, ratio %v: %v", c.target, c.value, c.ratio, got)
		}
	}
}

func TestTableShowsMediansRatiosAndVerdicts(t *testing.T) {
	took := func(ops ...float64) (samples []sample) {
		for _, n := range ops {
			samples = append(samples, sample{elapsed: time.Second, ops: n, proxied: true, proxies: usage{user: time.Second}})
		}
		return samples
	}
	r := &results{Columns: []string{"relay", "tulle", "old"}, Rounds: 3}
	r.add(row{name: "requests", metrics: operations(atLeast(1.4), atMost(0.6), target{})}, [][]sample{took(100, 90, 200), took(150, 140, 1000), took(1, 2, 3)})
	table := r.table(0)
	for _, want := range []string{"100 [90.0–200]", "150 [140–1000] 1.50× ok", "2.00 [1.00–3.00] 0.02× MISS", "≥ 1.4×"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in:\n%s", want, table)
		}
	}
	if got, want := r.verdict(), "old: 0 targets reached, 2 missed (requests: rate; requests: CPU)"; !strings.Contains(got, want) {
		t.Errorf("no %q in:\n%s", want, got)
	}
}

func TestSamplesOfCoresThatAreFarApartAreTold(t *testing.T) {
	r := &results{Columns: []string{"relay", "tulle"}, Rounds: 2}
	near, far := sample{elapsed: time.Second, apart: 40 * time.Nanosecond}, sample{elapsed: time.Second, apart: 170 * time.Nanosecond}
	r.add(row{name: "requests", metrics: operations(target{}, target{}, target{})}, [][]sample{{near, near}, {near, far}})
	const want = "tulle: 1 of 2 samples"
	if table, page := r.table(0), r.markdown(); !strings.Contains(table, want) || !strings.Contains(page, want) || strings.Contains(table, "relay: ") {
		t.Errorf("no %q, or more, in:\n%s\n%s", want, table, page)
	}
}

func TestDistanceOfCores(t *testing.T) {
	if got := coreDistance(); got < 0 || got > time.Millisecond {
		t.Errorf("one core sees what the other writes after %s", got)
	}
	if got := volley(0, 1000); got != 0 {
		t.Errorf("the distance to a core that doesn't exist is %s", got)
	}
}

func TestOtherZtunnelsAreColumns(t *testing.T) {
	o, err := parseOptions([]string{"-columns", "relay,mine", "-rows", "ping", "-env", "GOGC=50", "-env", "A=b"}, "mine=/bin/true,yours=/bin/false")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.columns) != 2 || o.columns[1].binary != "/bin/true" || !o.columns[1].ztunnel() || o.columns[0].ztunnel() || len(o.env) != 2 {
		t.Errorf("options: %+v", o)
	}
	for _, bad := range []struct{ args, others string }{
		{"-columns=nobody", ""}, {"", "path"}, {"", "relay=/bin/true"}, {"", "x=/does/not/exist"}, {"-rows=(", ""}, {"-rounds=0", ""}, {"row", ""},
	} {
		if _, err := parseOptions(strings.Fields(bad.args), bad.others); err == nil {
			t.Errorf("%q with ZTUNNEL_BIN=%q: taken", bad.args, bad.others)
		}
	}
}
