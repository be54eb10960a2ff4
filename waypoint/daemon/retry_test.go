package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

func TestFailuresAreTriedAgainAsTheRouteSays(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if n := asked.Add(1); n%3 != 0 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprintf(w, "at last %d", len(body))
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again, less := rule("/again", "web"), rule("/less", "web")
	again.Retry, less.Retry = &l7.Retry{Attempts: 2, Statuses: []uint32{503}, BackoffMs: 1}, &l7.Retry{Attempts: 1, Statuses: []uint32{503}, BackoffMs: 1}
	m.know(httpRoute("web", "web", again, less, rule("/", "web")))
	c := m.browser(m.caller("shop", "client"))
	send := func(path string, bytes int) (int, string) {
		asked.Store(0)
		resp, text := fetch(t, c, "http://web"+path, func(r *http.Request) {
			r.Method, r.Body = "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", bytes)))
		})
		return resp.StatusCode, text
	}
	for _, test := range []struct {
		path   string
		bytes  int
		status int
		tries  int32
	}{
		{"/again", 0, 200, 3},
		{"/again", 60_000, 200, 3},
		{"/again", 600_000, 503, 1}, // more than is kept
		{"/less", 10, 503, 2},
		{"/", 10, 503, 1},
	} {
		status, text := send(test.path, test.bytes)
		if status != test.status || asked.Load() != test.tries {
			t.Errorf("%s with %d bytes: %d after %d tries, want %d after %d", test.path, test.bytes, status, asked.Load(), test.status, test.tries)
		}
		if status == 200 && text != fmt.Sprintf("at last %d", test.bytes) {
			t.Errorf("%s with %d bytes: %q", test.path, test.bytes, text)
		}
	}
}

// A route's pause is the least there is before each further try, however long it is.
func TestTheRouteSaysHowLongToWaitAtLeast(t *testing.T) {
	m := newMesh(t)
	asked := make(chan time.Time, 3)
	m.serve(serverHost, func(w http.ResponseWriter, _ *http.Request) {
		asked <- time.Now()
		w.WriteHeader(503)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	const pause = 400 * time.Millisecond
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 2, Statuses: []uint32{503}, BackoffMs: pause.Milliseconds()}
	m.know(httpRoute("web", "web", again))
	fetch(t, m.browser(m.caller("shop", "client")), "http://web/")
	last := <-asked
	for range 2 {
		now := <-asked
		if waited := now.Sub(last); waited < pause-10*time.Millisecond { // the loop's clock is that of its turn
			t.Errorf("the next try comes after %v, want %v at least", waited, pause)
		}
		last = now
	}
}

// A client that gives up while the next try is waited for has no further one.
func TestNothingIsTriedAgainForAClientThatHasGone(t *testing.T) {
	m := newMesh(t)
	asked, left := make(chan string, 10), make(chan struct{}, 10)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.WriteHeader(503)
		if r.URL.Path == "/gone" { // until the waypoint has let go of it, to try again
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			left <- struct{}{}
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 1, Statuses: []uint32{503}, BackoffMs: 500}
	m.know(httpRoute("web", "web", again))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://web/gone", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if resp, err := m.browser2(m.caller("shop", "client")).Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-asked
	<-left
	cancel()
	<-ended
	m.eventually("the waypoint to hear of it", func() error {
		if m.metric("istio_requests_total", `response_flags="DC"`) != 1 {
			return errors.New("it hasn't")
		}
		return nil
	})
	if resp, _ := fetch(t, m.browser(m.caller("shop", "client")), "http://web/after"); resp.StatusCode != 503 { // which takes longer
		t.Errorf("status %d", resp.StatusCode)
	}
	for range 2 {
		if got := <-asked; got != "/after" {
			t.Errorf("the server is asked for %s", got)
		}
	}
}

// A retry storm is what keeps a server down. Of very many requests that all fail, only a fifth is tried again.
func TestRetriesAreBounded(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	hold := make(chan struct{})
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-hold
		w.WriteHeader(503)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 10, Statuses: []uint32{503}, BackoffMs: 1}
	m.know(httpRoute("web", "web", again))
	c := m.browser(m.caller("shop", "client"))
	const requests = 50
	ended := make(chan struct{}, requests)
	for range requests {
		go func() {
			resp, err := c.Get("http://web/")
			if err == nil {
				resp.Body.Close()
			}
			ended <- struct{}{}
		}()
	}
	m.eventually("all requests to be under way", func() error {
		if n := asked.Load(); n < requests {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	close(hold)
	for range requests {
		<-ended
	}
	if n := asked.Load(); n > requests+10*10 { // ten at a time, ten times each
		t.Errorf("%d requests came of %d", n, requests)
	}
}
