package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// counts are what became of a load; see e2e/cluster/app/load.go.
type counts struct {
	Requests, Failed, Dialled int
	Slowest                   time.Duration
	Failures                  []failure
}

type failure struct {
	Began time.Time
	Held  bool
	Why   string
}

const busy = "http://server.busy/"

// start makes a pod request a URL so often in a second, and over so many held connections.
func start(t *testing.T, namespace, pod, url string, rate, held int) {
	t.Helper()
	page := fmt.Sprintf("http://127.0.0.1:8080/load/start?url=%s&rate=%d&held=%d", url, rate, held)
	if answer, err := ask(t.Context(), namespace, pod, page); err != nil {
		t.Fatalf("start load: %q %v", answer, err)
	}
}

// stop ends a pod's load of a URL.
func stop(t *testing.T, namespace, pod, url string) (c counts) {
	t.Helper()
	text, err := ask(context.WithoutCancel(t.Context()), namespace, pod, "http://127.0.0.1:8080/load/stop?url="+url)
	if err == nil {
		err = json.Unmarshal([]byte(text), &c)
	}
	if err != nil {
		t.Fatalf("stop load: %q %v", text, err)
	}
	return c
}

// loadOf does something while a pod requests a URL over 50 new connections a second and over four that are held.
func loadOf(t *testing.T, namespace, pod, url string, do func()) counts {
	t.Helper()
	start(t, namespace, pod, url, 50, 4)
	began := time.Now()
	do()
	time.Sleep(time.Second) // of load, after all is done
	result := stop(t, namespace, pod, url)
	seconds := time.Since(began).Seconds()
	t.Logf("%d requests in %.1f s, %d failed, %d held connections made, the slowest took %s",
		result.Requests, seconds, result.Failed, result.Dialled, result.Slowest.Round(time.Millisecond))
	if least := int(seconds * 25); result.Requests < least {
		t.Errorf("%d requests in %.1f s, want %d at least", result.Requests, seconds, least)
	}
	return result
}

// underLoad does something to the mesh while the client of the namespace busy asks the server there. Meanwhile a stranger tries as well: who
// gets in there comes by a tunnel, and has the client's identity.
func underLoad(t *testing.T, do func(ctx context.Context)) counts {
	t.Helper()
	start(t, "busy", "stranger", busy, 5, 0)
	client := loadOf(t, "busy", "client", busy, func() { do(t.Context()) })
	stranger := stop(t, "busy", "stranger", busy)
	if stranger.Failed != stranger.Requests || stranger.Requests == 0 {
		t.Errorf("%d of a stranger's %d requests were answered", stranger.Requests-stranger.Failed, stranger.Requests)
	}
	return client
}

// loseNothing is underLoad that fails the test if a request has failed, or if the two ends haven't each other's identities afterwards.
func loseNothing(t *testing.T, do func(ctx context.Context)) {
	t.Helper()
	if client := underLoad(t, do); client.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", client.Failed, client.Requests, client.Failures)
	}
	counted(t, "busy", "client", busy, nodes[0], `reporter="source"`, from("busy", "client"), to("busy", "server"), byTunnel)
}
