package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's program play the benchmark's roles too.
func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleVariable); ok {
		exit(play(role))
	}
	os.Exit(m.Run())
}

// quick are options for a run of seconds.
func quick(t *testing.T, rows string, columns ...string) options {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("this makes network namespaces: run it as root and without -short")
	}
	chosen, err := chooseColumns(strings.Join(columns, ","), "")
	if err != nil {
		t.Fatal(err)
	}
	o := options{
		rows: regexp.MustCompile(rows), columns: chosen, rounds: 1, duration: 200 * time.Millisecond, busy: 1,
		idle: idlePlan{few: 10, many: 50, watch: 100 * time.Millisecond, after: 100 * time.Millisecond},
		dir:  filepath.Join(os.TempDir(), fmt.Sprintf("tulle-bench-test-%d", os.Getpid())), json: filepath.Join(t.TempDir(), "bench.json"),
	}
	t.Cleanup(func() {
		if left, _ := filepath.Glob(fmt.Sprintf("/run/netns/tulle-bench%d*", os.Getpid())); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if _, err := os.Stat(o.dir); err == nil {
			t.Errorf("left behind: %s", o.dir)
		}
	})
	return o
}
