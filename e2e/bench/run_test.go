package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// measured is what a run wrote, without its samples.
type measured struct {
	Rows []struct {
		Name     string
		Metrics  []metricResult
		Failures map[string]int64
	}
}

func runQuickly(t *testing.T, o options) (got measured) {
	t.Helper()
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.json)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestOneRowFromEndToEnd(t *testing.T) {
	o := quick(t, "^requests", "direct", "relay", "tls-relay", "tulle")
	o.profiles = t.TempDir()
	got := runQuickly(t, o)
	if len(got.Rows) != 1 || got.Rows[0].Name != "requests 1 KiB 64" {
		t.Fatalf("rows: %+v", got.Rows)
	}
	for _, column := range []string{"direct", "relay", "tls-relay", "tulle"} {
		rate, cost := got.Rows[0].Metrics[0].Cells[column], got.Rows[0].Metrics[1].Cells[column]
		if rate.Median < 100 || (column != "direct") != (cost.Median > 0) || got.Rows[0].Failures[column] > 0 {
			t.Errorf("%s: rate %v, CPU %v, failures %v", column, rate, cost, got.Rows[0].Failures)
		}
	}
	if c := got.Rows[0].Metrics[0].Cells["tulle"]; c.Met == nil || c.Ratio == 0 {
		t.Errorf("no verdict: %+v", c)
	}
	for _, name := range []string{"requests-1-KiB-64_tulle_client.pprof", "requests-1-KiB-64_tulle_server.pprof"} {
		if info, err := os.Stat(filepath.Join(o.profiles, name)); err != nil || info.Size() == 0 {
			t.Errorf("no profile: %v", err)
		}
	}
}

func TestStartsAndMemoryAreMeasured(t *testing.T) {
	got := runQuickly(t, quick(t, "^start|^idle", "direct", "relay", "tulle"))
	if len(got.Rows) != 2 {
		t.Fatalf("rows: %+v", got.Rows)
	}
	for _, w := range got.Rows {
		for _, m := range w.Metrics {
			for _, column := range []string{"relay", "tulle"} {
				if c := m.Cells[column]; len(c.Values) != 1 || (c.Median == 0 && m.Unit != "% of a core") {
					t.Errorf("%s, %s, %s: %+v", w.Name, m.Name, column, c)
				}
			}
			if _, ok := m.Cells["direct"]; ok != (m.Name == "first byte of a cold pair") {
				t.Errorf("%s, %s of no proxies: %+v", w.Name, m.Name, m.Cells["direct"])
			}
		}
	}
}

// A ztunnel that doesn't encrypt must not be measured: here relays play one.
func TestPlainTextIsNoticed(t *testing.T) {
	o := quick(t, "", "relay")
	built, err := buildSelf()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{column: o.columns[0], options: o, built: built}
	defer os.Remove(o.dir)
	defer func() {
		if err := s.down(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.prove(t.Context()); err == nil || !strings.Contains(err.Error(), "payload was seen in the clear") {
		t.Errorf("a plain relay passed as mutual TLS: %v", err)
	}
}

func buildSelf() (binaries, error) {
	self, err := os.Executable()
	return binaries{self: self}, err
}

func TestOthersOnTheMachineAreNoticed(t *testing.T) {
	before := lookAtOthers(nil)
	for began := time.Now(); lookAtOthers(nil).spent-before.spent < 5*tick; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("this process used the machine and wasn't seen")
		}
	}
	if share := lookAtOthers(nil).share(before); share <= 0 {
		t.Errorf("a share of %v", share)
	}
}

func TestSecondRunIsRefused(t *testing.T) {
	o := quick(t, "", "relay")
	lock, err := own(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another benchmark is running") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(o.dir); err != nil {
		t.Errorf("the first one's folder: %v", err)
	}
	lock.Close()
	os.RemoveAll(o.dir)
}

func TestInterruptedRunLeavesNothing(t *testing.T) {
	o := quick(t, "", "relay")
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("Ctrl-C")
	o.rounds = 1 << 20
	waited := make(chan error, 1)
	go func() { // until the nodes are there
		waited <- demo.AwaitWithin(t.Context(), time.Minute, "the nodes", func(context.Context) error {
			_, err := os.Stat(filepath.Join(o.dir, "relay", "log", "load-server"))
			return err
		})
		cancel(interrupt)
	}()
	if err := run(ctx, o); !errors.Is(err, interrupt) {
		t.Errorf("got %v", err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestOnlyMutualTLSPasses(t *testing.T) {
	good := demo.Report{Records: 9, Handshakes: map[string]uint64{"TLS 1.3": 1}}
	if err := encrypted(good); err != nil {
		t.Errorf("good traffic: %v", err)
	}
	for name, spoil := range map[string]func(*demo.Report){
		"nothing":          func(r *demo.Report) { *r = demo.Report{} },
		"no handshake":     func(r *demo.Report) { r.Handshakes = nil },
		"TLS 1.2":          func(r *demo.Report) { r.Handshakes = map[string]uint64{"TLS 1.2": 1} },
		"TLS 1.2 as well":  func(r *demo.Report) { r.Handshakes = map[string]uint64{"TLS 1.2": 1, "TLS 1.3": 1} },
		"no records":       func(r *demo.Report) { r.Records = 0 },
		"plain text there": func(r *demo.Report) { r.Plain = 1 },
	} {
		bad := demo.Report{Records: 9, Handshakes: map[string]uint64{"TLS 1.3": 1}}
		spoil(&bad)
		if encrypted(bad) == nil {
			t.Errorf("%s: passed", name)
		}
	}
	page := "# TYPE istio_tcp_connections_opened counter\n" + `istio_tcp_connections_opened_total{reporter="source",connection_security_policy="mutual_tls"} 3` + "\n" +
		`istio_tcp_connections_opened_total{reporter="source",connection_security_policy="unknown"} 1` + "\n"
	if secure, all := countOpened(page); secure != 3 || all != 4 {
		t.Errorf("counted %v of %v", secure, all)
	}
}
