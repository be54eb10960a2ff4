package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// reader is the far end of the log, which may be stuck or gone.
type reader struct {
	open chan struct{} // Write waits until it is closed
	err  error

	mu     sync.Mutex
	got    bytes.Buffer
	writes int
}

func (r *reader) Write(b []byte) (int, error) {
	<-r.open
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	if r.err != nil {
		return 0, r.err
	}
	return r.got.Write(b)
}

func stuck() *reader { return &reader{open: make(chan struct{})} }

func TestLoggingNeverWaitsForTheReaderOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stuck()
		w := telemetry.NewWriter(r)
		fmt.Fprintln(w, "line 0")
		time.Sleep(time.Second) // it is being written, and stuck
		for i := range 12_000 {
			if n, err := w.Write(fmt.Appendf(nil, "line %d\n", i+1)); n == 0 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if n := dropped(t, w); n != 2_000 {
			t.Errorf("%d lines dropped, want 2000", n)
		}
		close(r.open)
		if err := w.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		lines := strings.Split(strings.TrimSuffix(r.got.String(), "\n"), "\n")
		if len(lines) != 10_001 {
			t.Fatalf("%d lines written, want 10001", len(lines))
		}
		for i, line := range lines {
			if line != fmt.Sprintf("line %d", i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		if r.writes != 2 {
			t.Errorf("%d writes, want what has queued up to go out at once", r.writes)
		}
	})
}

func TestQueueIsBoundedInBytesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stuck()
		w := telemetry.NewWriter(r)
		fmt.Fprintln(w, "first")
		time.Sleep(time.Second)
		line := bytes.Repeat([]byte("x"), 1<<20)
		for range 20 {
			w.Write(line)
		}
		if n := dropped(t, w); n != 4 {
			t.Errorf("%d lines of 1 MiB dropped, want 4 of 20", n)
		}
		close(r.open)
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseGivesUpOnAStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stuck()
		w := telemetry.NewWriter(r)
		fmt.Fprintln(w, "line")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want a time-out", err)
		}
		fmt.Fprintln(w, "too late")
		if dropped(t, w) != 1 {
			t.Errorf("%d lines dropped, want the one after Close", dropped(t, w))
		}
		close(r.open)
	})
}

func TestLinesOfAFailedWriteCountAsDropped(t *testing.T) {
	r := stuck()
	r.err = errors.New("broken pipe")
	close(r.open)
	w := telemetry.NewWriter(r)
	fmt.Fprintln(w, "line")
	fmt.Fprintln(w, "line")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dropped(t, w) != 2 {
		t.Errorf("%d lines dropped, want 2", dropped(t, w))
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.Collector())
	if text := collect(t, reg, nil, ""); !strings.Contains(text, "\ntulle_log_lines_dropped_total 2\n") {
		t.Errorf("scrape:\n%s", text)
	}
}

func TestManyLoggersThroughOneWriter(t *testing.T) {
	r := stuck()
	close(r.open)
	w := telemetry.NewWriter(r)
	log := telemetry.NewLogger(w, "plain", levels(t, "info"))
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range 500 {
				log.Info("line", "key", "value")
			}
		})
	}
	work.Wait()
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(r.got.String(), "\tinfo\tdefault\tline\tkey=\"value\"\n"); got != 4000 || dropped(t, w) != 0 {
		t.Errorf("%d whole lines, %d dropped; want 4000, 0", got, dropped(t, w))
	}
}

// dropped returns how many lines the writer has counted as lost.
func dropped(t testing.TB, w *telemetry.Writer) int {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.Collector())
	return int(value(t, collect(t, reg, nil, ""), "tulle_log_lines_dropped_total"))
}

func BenchmarkWriter(b *testing.B) {
	r := stuck()
	close(r.open)
	w := telemetry.NewWriter(discard{})
	log := slog.New(telemetry.NewLogger(w, "plain", levels(b, "info")).Handler())
	b.ReportAllocs()
	for b.Loop() {
		log.Info("line", "key", "value")
	}
	b.ReportMetric(float64(dropped(b, w))/float64(b.N), "dropped/op")
	if err := w.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func TestLostLinesAreToldInOneLineAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stuck()
		w := telemetry.NewWriter(r)
		log := telemetry.NewLogger(w, "plain", levels(t, "info"))
		w.OnDrop(func(lines uint64) { log.Warn("log lines dropped", "lines", lines) })
		flood := func() {
			fmt.Fprintln(w, "first")
			time.Sleep(time.Second) // it is being written, and stuck
			for range 10_500 {
				fmt.Fprintln(w, "line")
			}
		}
		told := func() (lines []string) {
			time.Sleep(time.Second)
			r.mu.Lock()
			defer r.mu.Unlock()
			for line := range strings.Lines(r.got.String()) {
				if _, rest, found := strings.Cut(line, "log lines dropped\t"); found {
					lines = append(lines, strings.TrimSpace(rest))
				}
			}
			return lines
		}
		flood()
		close(r.open)
		if got := told(); len(got) != 1 || got[0] != "lines=500" {
			t.Errorf("told %q, want lines=500", got)
		}
		fmt.Fprintln(w, "all is well")
		time.Sleep(time.Minute)
		if got := told(); len(got) != 1 {
			t.Errorf("told %q, want nothing more", got)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestABusyLogIsWrittenInFewPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stuck()
		close(r.open)
		w := telemetry.NewWriter(r)
		for range 1000 {
			fmt.Fprintln(w, "line") // one each 100 µs
			time.Sleep(100 * time.Microsecond)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if r.writes > 11 || strings.Count(r.got.String(), "\n") != 1000 {
			t.Errorf("%d lines in %d writes, want 1000 in 11", strings.Count(r.got.String(), "\n"), r.writes)
		}
	})
}
