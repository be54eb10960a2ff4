package l7

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// patience is how long a change may take until requests show it.
const patience = time.Minute

func kubectl(ctx context.Context, args ...string) (string, error) {
	return mesh.Kubectl(ctx, "", args...)
}

// apply gives objects to the cluster; FIRST and SECOND stand for its nodes.
func apply(ctx context.Context, text string) error {
	_, err := mesh.Kubectl(ctx, mesh.Filled(text), "apply", "--server-side", "-f", "-")
	return err
}

// with gives objects to the cluster for the time of a test.
func with(t *testing.T, text string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := mesh.Kubectl(context.Background(), mesh.Filled(text), "delete", "--ignore-not-found", "--timeout=60s", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	if err := apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// label sets a label of an object for the time of a test: key=value, or key- to take it away.
func label(t *testing.T, object, set, back string) {
	t.Helper()
	t.Cleanup(func() { must(t, "-n", "shop", "label", object, back, "--overwrite") })
	must(t, "-n", "shop", "label", object, set, "--overwrite")
}

// must is kubectl that fails the test.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pod is one of those that ask.
type pod struct{ namespace, name string }

var (
	client  = pod{"shop", "client"}
	other   = pod{"shop", "other"}
	distant = pod{"elsewhere", "client"}
	plain   = pod{"plain", "client"}
)

// answers are what a URL has answered, as often as it was asked.
type answers struct {
	statuses []int
	hosts    map[string]int // by the names of pods
	text     string
}

var (
	statusLine = regexp.MustCompile(`(?m)^\[\d+\] StatusCode=(\d+)$`)
	hostLine   = regexp.MustCompile(`(?m)^\[\d+ body\] Hostname=(\S+)$`)
)

// ask requests a URL from inside a pod: url, and then flags of the echo's client.
func (p pod) ask(ctx context.Context, args ...string) (a answers, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.text, err = kubectl(ctx, append([]string{"-n", p.namespace, "exec", p.name, "--", "/echo", "client"}, args...)...)
	a.hosts = map[string]int{}
	for _, found := range statusLine.FindAllStringSubmatch(a.text, -1) {
		status, _ := strconv.Atoi(found[1]) // digits
		a.statuses = append(a.statuses, status)
	}
	for _, found := range hostLine.FindAllStringSubmatch(a.text, -1) {
		a.hosts[found[1]]++
	}
	return a, err
}

// status is that of the first answer; 0 if there was none.
func (a answers) status() int {
	if len(a.statuses) == 0 {
		return 0
	}
	return a.statuses[0]
}

// looked tells that a waypoint has looked into the request: the server was told an id of it.
func (a answers) looked() bool { return strings.Contains(a.text, "RequestHeader=X-Request-Id:") }

// eventually repeats a check until it succeeds.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := demo.AwaitWithin(context.WithoutCancel(t.Context()), patience, what, check); err != nil {
		t.Fatal(err)
	}
}

// gets waits until a URL is answered with a status; 0 is no answer.
func (p pod) gets(t *testing.T, want int, args ...string) (last answers) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v to get %d of %q", p, want, args), func(ctx context.Context) (err error) {
		last, err = p.ask(ctx, args...)
		if got := last.status(); got != want {
			return fmt.Errorf("status %d: %v\n%s", got, err, last.text)
		}
		return nil
	})
	return last
}

// through waits for an answer of 200, which must have gone through a waypoint of that name.
func (p pod) through(t *testing.T, waypoint string, args ...string) (last answers) {
	t.Helper()
	before := counted(t, waypoint, "istio_requests_total")
	last = p.gets(t, 200, args...)
	passed(t, waypoint, "istio_requests_total", before+1)
	return last
}

// around waits for an answer of 200 that no waypoint has looked into.
func (p pod) around(t *testing.T, args ...string) (last answers) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v to go past the waypoint to %q", p, args), func(ctx context.Context) (err error) {
		if last, err = p.ask(ctx, args...); err == nil && (last.status() != 200 || last.looked()) {
			err = fmt.Errorf("%s", last.text)
		}
		return err
	})
	return last
}

// passed waits until a waypoint has counted at least so many.
func passed(t *testing.T, waypoint, metric string, want float64, labels ...string) {
	t.Helper()
	eventually(t, "waypoint "+waypoint+" to count it", func(ctx context.Context) error {
		if got := counted(t, waypoint, metric, labels...); got < want {
			return fmt.Errorf("%s with %q is %v, want %v at least", metric, labels, got, want)
		}
		return nil
	})
}

// counted adds up a metric of the waypoint's instances that has all of the labels.
func counted(t *testing.T, waypoint, metric string, labels ...string) (sum float64) {
	t.Helper()
	names := must(t, "-n", "shop", "get", "pods", "-l", "gateway.networking.k8s.io/gateway-name="+waypoint, "-o", "jsonpath={.items[*].metadata.name}")
	for _, name := range strings.Fields(names) {
		sum += metricOf(t, "shop", name, metric, append(labels, `reporter="waypoint"`)...)
	}
	return sum
}

func metricOf(t *testing.T, namespace, pod, metric string, labels ...string) (sum float64) {
	t.Helper()
	text := must(t, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+":15020/proxy/metrics")
next:
	for line := range strings.Lines(text) {
		series, isIt := strings.CutPrefix(line, metric+"{")
		if !isIt {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(series, label) {
				continue next
			}
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(series[strings.LastIndexByte(series, '}')+1:]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += value
	}
	return sum
}
