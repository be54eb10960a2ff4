package daemon

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Further tries that are answered say nothing against others, however long their answers last.
func TestTriesThatAreAnsweredLeaveRoomForOthers(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	end := make(chan struct{})
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%2 == 1 {
			w.WriteHeader(503)
			return
		}
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/long" {
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 1, Statuses: []uint32{503}, BackoffMs: 1}
	m.know(httpRoute("web", "web", again))
	defer close(end)
	c := m.browser(m.caller("shop", "client"))
	for i := range 10 {
		resp, err := c.Get("http://web/long")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("%d, while %d are being answered", resp.StatusCode, i)
		}
	}
}

// The route's pause is the least there is between tries.
func TestTriesPauseAsTheRouteSays(t *testing.T) {
	m := newMesh(t)
	const tries, pause = 5, 260 * time.Millisecond
	asked := make(chan time.Time, tries)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		asked <- time.Now()
		w.WriteHeader(503)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: tries - 1, Statuses: []uint32{503}, BackoffMs: int64(pause / time.Millisecond)}
	m.know(httpRoute("web", "web", again))
	fetch(t, m.browser(m.caller("shop", "client")), "http://web/")
	last := <-asked
	var gaps []string
	short := false
	for range tries - 1 {
		next := <-asked
		gaps = append(gaps, fmt.Sprint(next.Sub(last)))
		short = short || next.Sub(last) < pause
		last = next
	}
	if short {
		t.Errorf("pauses of %v, want %v at least", gaps, pause)
	}
}
