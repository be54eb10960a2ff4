package daemon

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// timed is a rule whose requests, or whose tries, have so many milliseconds.
func timed(prefix, service string, whole, each int64, retry *l7.Retry) *l7.Rule {
	r := rule(prefix, service)
	r.RequestTimeoutMs, r.TryTimeoutMs, r.Retry = whole, each, retry
	return r
}

// An answer that has begun has to end in time, too. Its client mustn't take it for whole, and its server hears that nobody wants it.
func TestAnAnswerThatDoesNotEndInTimeBreaksOff(t *testing.T) {
	m := newMesh(t)
	left := make(chan struct{}, 2)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web", timed("/whole", "web", 100, 0, nil), timed("/each", "web", 0, 100, nil)))
	for _, c := range []*http.Client{m.browser(m.caller("shop", "client")), m.browser2(m.caller("shop", "client"))} {
		for _, path := range []string{"/whole", "/each"} {
			resp, err := c.Get("http://web" + path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(text) != "half" || err == nil {
				t.Errorf("%s: %d %q, %v", path, resp.StatusCode, text, err)
			}
			<-left
		}
	}
	m.eventually("them to be counted", func() error {
		if n := m.metric("istio_requests_total", `response_code="200"`, `response_flags="UT"`); n != 4 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
}

// A try that takes too long is tried again as the route says, until the request's own time is over.
func TestATryThatTakesTooLongIsTriedAgain(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); r.URL.Path == "/once" && n > 1 {
			_, _ = io.WriteString(w, "at last")
			return
		}
		<-r.Context().Done()
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web",
		timed("/once", "web", 0, 400, &l7.Retry{Attempts: 1, BackoffMs: 1}), timed("/always", "web", 0, 100, &l7.Retry{Attempts: 1, BackoffMs: 1}),
		timed("/whole", "web", 250, 100, &l7.Retry{Attempts: 100, BackoffMs: 1})))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		path        string
		status      int
		text        string
		least, most int32 // tries
	}{{"/once", 200, "at last", 2, 2}, {"/always", 504, textTimeout, 2, 2}, {"/whole", 504, textTimeout, 1, 3}} {
		asked.Store(0)
		resp, text := fetch(t, c, "http://web"+test.path)
		if n := asked.Load(); resp.StatusCode != test.status || text != test.text || n < test.least || n > test.most {
			t.Errorf("%s: %d %q after %d tries, want %d %q after %d to %d", test.path, resp.StatusCode, text, n, test.status, test.text, test.least, test.most)
		}
	}
}

// The time of what has ended in time is over with it.
func TestTheTimeOfAnEndedRequestEndsNothing(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			select {
			case <-time.After(time.Second): // longer than the others' time
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "whole")
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web", timed("/quick", "web", 500, 0, nil), timed("/try", "web", 0, 500, nil), rule("/slow", "web")))
	c := m.browser2(m.caller("shop", "client"))
	for _, path := range []string{"/quick", "/try", "/slow"} {
		if resp, text := fetch(t, c, "http://web"+path); resp.StatusCode != 200 || text != "whole" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, text)
		}
	}
	m.eventually("them to be counted", func() error {
		if n := m.metric("istio_requests_total"); n < 3 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
	if n := m.metric("istio_requests_total", `response_flags="-"`); n != 3 || m.metric("istio_requests_total") != 3 {
		t.Errorf("%v requests are counted well, and %v in all, want 3", n, m.metric("istio_requests_total"))
	}
}

// Who gives no answer in time is asked less.
func TestAnEndpointThatDoesNotAnswerInTimeIsAskedLess(t *testing.T) {
	for name, r := range map[string]*l7.Rule{"whole": timed("/", "web", 300, 0, nil), "each": timed("/", "web", 0, 300, nil)} {
		m := newMesh(t)
		var asked atomic.Int32
		m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-r.Context().Done()
		})
		m.serve(serverHost+1, echo("web"))
		m.know(m.service("web", httpPort, 8080, serverHost, serverHost+1)...)
		m.know(httpRoute("web", "web", r))
		c := m.browser(m.caller("shop", "client"))
		const requests = 40
		for range requests {
			fetch(t, c, "http://web/")
		}
		if n := asked.Load(); n > requests/5 {
			t.Errorf("%s: of %d requests the endpoint that doesn't answer got %d", name, requests, n)
		}
	}
}
