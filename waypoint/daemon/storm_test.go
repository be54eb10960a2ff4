package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// heapNow is what lives in this process, the waypoint's heap and its clients' and servers' together.
func heapNow() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What is longer than any head is refused before it has all come, and nobody keeps it.
func TestAHeadOfAMegabyteIsRefused(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	caller := m.caller("shop", "client")
	for _, c := range []struct {
		what, head string
		status     int
	}{
		{"field", "GET / HTTP/1.1\r\nHost: web\r\nX-Long: " + strings.Repeat("x", 1<<20), 431},
		{"many fields", "GET / HTTP/1.1\r\nHost: web\r\n" + strings.Repeat("X-One: 1\r\n", 100_000), 431},
		{"target", "GET /" + strings.Repeat("x", 1<<20), 414},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn, err := m.through(caller, "web")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, c.head) }() // it may not be read to its end
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != c.status {
				t.Errorf("%v, %v; want %d", resp, err, c.status)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://web/", nil)
		req.Header.Set("X-Long", strings.Repeat("x", 1<<20))
		resp, err := m.browser2(caller).Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != 431 {
				t.Errorf("status %d, want 431 or no answer at all", resp.StatusCode)
			}
		}
	})
	if resp, text := fetch(t, m.browser(caller), "http://web/"); resp.StatusCode != 200 {
		t.Errorf("a request after those: %d %s", resp.StatusCode, text)
	}
}

// Bodies that come piece by piece arrive whole, and hold up nobody else.
func TestSlowBodiesHoldUpNobody(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	before := heapNow()
	var group sync.WaitGroup
	var writers []*io.PipeWriter
	for range slowBodies {
		r, w := io.Pipe()
		writers = append(writers, w)
		group.Go(func() {
			resp, err := c.Post("http://web/", "text/plain", r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if text, err := io.ReadAll(resp.Body); string(text) != fmt.Sprintf("%d <nil>", slowPieces*slowPiece) || err != nil {
				t.Errorf("the server has got %s, %v", text, err)
			}
		})
	}
	piece := make([]byte, slowPiece)
	for i := range slowPieces {
		for _, w := range writers {
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if i == slowPieces/2 {
			if more := int64(heapNow()) - int64(before); more > slowBodies*(256<<10) {
				t.Errorf("%d bodies under way hold %d bytes", slowBodies, more)
			}
		}
		if resp, _ := fetch(t, c, "http://web/"); resp.StatusCode != 200 {
			t.Errorf("a short request meanwhile: %d", resp.StatusCode)
		}
	}
	for _, w := range writers {
		w.Close()
	}
	group.Wait()
}

const slowBodies, slowPieces, slowPiece = 50, 20, 8 << 10

// Routes that change a hundred times in a second fail no request, and leave nothing behind.
func TestRoutesThatChangeAHundredTimesASecondFailNoRequest(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("one"))
	m.serve(serverHost+1, echo("two"))
	m.know(m.service("one", httpPort, 8080, serverHost)...)
	m.know(m.service("two", httpPort, 8080, serverHost+1)...)
	m.know(httpRoute("one", "one", rule("/", "one")))
	var answered atomic.Int64
	caller := m.caller("shop", "client")
	end := m.load("http://one/", func(string) { answered.Add(1) }, m.browser(caller), m.browser(caller), m.browser2(caller))
	before := heapNow()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range 200 {
		<-tick.C
		m.istiod.Set(httpRoute("one", "one", rule("/", []string{"one", "two"}[i%2])))
	}
	more := answered.Load() + 100
	m.eventually("answers after the last change", func() error {
		if !t.Failed() && answered.Load() < more {
			return errors.New("too few")
		}
		return nil
	})
	end()
	if resp, text := fetch(t, m.browser(caller), "http://one/"); resp.StatusCode != 200 || !strings.HasPrefix(text, "two") {
		t.Errorf("by the last change: %d %s", resp.StatusCode, text)
	}
	if more := int64(heapNow()) - int64(before); more > 16<<20 {
		t.Errorf("200 changes have left %d bytes", more)
	}
}
