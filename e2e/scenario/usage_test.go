package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// watched is how long it is looked what components use.
const watched = 5 * time.Second

// used is what a component has used so far, and what it has now.
type used struct{ seconds, megabytes float64 }

// usage asks each component of both nodes, by its own metrics.
func usage(t *testing.T) map[string]used {
	t.Helper()
	all := map[string]used{}
	list := must(t, "-n", system, "get", "pods", "--field-selector=status.phase=Running", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.metadata.annotations.prometheus\.io/port} {.metadata.labels.app\.kubernetes\.io/name}{"\n"}{end}`)
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			continue
		}
		text := must(t, "get", "--raw", "/api/v1/namespaces/"+system+"/pods/"+fields[0]+":"+fields[2]+"/proxy/metrics")
		all[fields[3]+" on "+fields[1]] = used{value(t, text, "process_cpu_seconds_total"), value(t, text, "process_resident_memory_bytes") / 1e6}
	}
	return all
}

// value is that of a metric without labels.
func value(t *testing.T, text, name string) (v float64) {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatalf("metric %q: %v", line, err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// tell logs what each component has used since an earlier look.
func tell(t *testing.T, when string, before map[string]used, since time.Time) {
	t.Helper()
	took := time.Since(since)
	for name, now := range usage(t) {
		if was, ok := before[name]; ok {
			t.Logf("%-12s %-28s %6.2f %% of a core, %6.1f MB", when, name, (now.seconds-was.seconds)/took.Seconds()*100, now.megabytes)
		}
	}
}

// The figures are for docs/performance.md; they say nothing while other work runs on the machine.
func TestWhatComponentsUse(t *testing.T) {
	time.Sleep(2 * time.Second) // what earlier tests have begun may end
	before, since := usage(t), time.Now()
	time.Sleep(watched)
	tell(t, "idle", before, since)

	start(t, "busy", "client", busy, 500, 50) // the held ones make ten a second each
	before, since = usage(t), time.Now()
	time.Sleep(watched)
	tell(t, "1,000 req/s", before, since)
	result := stop(t, "busy", "client", busy)
	t.Logf("%d requests, half of them over new connections; the slowest took %s", result.Requests, result.Slowest.Round(time.Millisecond))
	if result.Failed > 0 {
		t.Errorf("%d failed: %+v", result.Failed, result.Failures)
	}
}
