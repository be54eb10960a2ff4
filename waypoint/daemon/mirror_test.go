package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

func TestMirrorsGetCopies(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("main"))
	copies := make(chan string, 10)
	m.serve(serverHost+1, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- r.Method + " " + r.URL.Path + " " + string(body)
		w.WriteHeader(500)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
	both := rule("/", "web")
	both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
	m.know(httpRoute("web", "web", both))
	c := m.browser(m.caller("shop", "client"))
	fetch(t, c, "http://web/long", func(r *http.Request) { // of which there is no copy
		r.Method, r.Body = "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", 100_000)))
	})
	resp, text := fetch(t, c, "http://web/x", func(r *http.Request) { r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("hello")) })
	if resp.StatusCode != 200 || text != "main POST /x host=web hello" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	select {
	case got := <-copies:
		if got != "POST /x hello" {
			t.Errorf("the copy is %q", got)
		}
	case <-time.After(patience):
		t.Error("no copy came")
	}
}

// A copy is made of a request that is answered before it is complete, too.
func TestMirrorsGetCopiesOfWhatIsAnsweredEarly(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	})
	copies := make(chan string, 1)
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- string(body)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
	both := rule("/", "web")
	both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
	m.know(httpRoute("web", "web", both))
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhe")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Fprint(conn, "llo")
	if text, err := io.ReadAll(resp.Body); string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	select {
	case got := <-copies:
		if got != "hello" {
			t.Errorf("the copy is %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no copy came")
	}
}

// A mirror that doesn't answer holds up nobody, and costs no more than so many copies.
func TestOnlySoManyCopiesAreUnderWay(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("main"))
	var now, most atomic.Int32
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-r.Context().Done()
		now.Add(-1)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", workload.AppProtocol_HTTP2, 8080, serverHost+1)...)
	both := rule("/", "web")
	for range 10 {
		both.Filters = &l7.Filters{Mirrors: append(both.GetFilters().GetMirrors(), &l7.Mirror{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}})}
	}
	m.know(httpRoute("web", "web", both))
	c := m.browser(m.caller("shop", "client"))
	begun := time.Now()
	for range 110 {
		if resp, _ := fetch(t, c, "http://web/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	m.eventually("the copies to have come", func() error {
		if n := most.Load(); n < 1000 && time.Since(begun) < 10*time.Second { // after which they are given up
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := most.Load(); n > 1000 {
		t.Errorf("%d copies at once, want at most 1000", n)
	}
}
