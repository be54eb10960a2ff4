package daemon

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// What the codecs answer themselves is counted as well, once, and no server hears of it.
func TestWhatIsNoRequestIsAnsweredAndCounted(t *testing.T) {
	m := newMesh(t)
	asked := atomic.Int32{}
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			asked.Add(1)
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.caller("shop", "client")
	for _, test := range []struct {
		name, request string
		status        int
		reason        string
	}{
		{"a transfer coding that isn't known", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"CONNECT", "CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n", 405, "CONNECT, which only proxies for clients serve"},
		{"another version", "GET / HTTP/1.9\r\nHost: web\r\n\r\n", 505, "a version of HTTP that isn't served here"},
		{"a chunk that is none", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, "a chunk without a size"},
	} {
		conn, err := m.through(c, "web")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, test.request)
		all, err := io.ReadAll(conn)
		conn.Close()
		if want := fmt.Sprintf("HTTP/1.1 %d %s\r\n", test.status, http.StatusText(test.status)); err != nil || !strings.HasPrefix(string(all), want) || !strings.Contains(string(all), test.reason) {
			t.Errorf("%s: %q, %v", test.name, all, err)
		}
		m.eventually(test.name+" to be counted", func() error {
			code := fmt.Sprintf(`response_code="%d"`, test.status)
			if n := m.metric("istio_requests_total", `reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/shop/sa/client"`, `destination_service="web.shop"`, `response_flags="DPE"`, code); n != 1 {
				return fmt.Errorf("%v requests", n)
			}
			if word := fmt.Sprintf("response_code_details=%q", test.reason); !strings.Contains(m.log.String(), word) {
				return errors.New("no " + word + " in the log")
			}
			return nil
		})
	}
	if n := m.metric("istio_requests_total"); n != 4 || asked.Load() != 0 {
		t.Errorf("%v requests are counted, want 4; servers were asked %d times", n, asked.Load())
	}
}

func TestFailuresAreAnsweredInIstiosWords(t *testing.T) {
	m := newMesh(t)
	m.know(m.service("empty", httpPort, 8080)...)
	m.know(m.service("dead", httpPort, 8080, serverHost)...)
	release := make(chan struct{})
	m.serve(serverHost+1, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/breaks":
			panic(http.ErrAbortHandler)
		default:
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	defer close(release)
	m.know(m.service("slow", httpPort, 8080, serverHost+1)...)
	whole, each := rule("/whole", "slow"), rule("/each", "slow")
	whole.RequestTimeoutMs, each.TryTimeoutMs = 50, 50
	m.know(httpRoute("slow", "slow", whole, each, rule("/", "slow")))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		url, flags, text string
		status           int
	}{
		{"http://empty/", "UH", textNoEndpoint, 503},
		{"http://dead/", "UF", textConnect, 503},
		{"http://slow/breaks", "UC", textBroken, 503},
		{"http://slow/whole", "UT", textTimeout, 504},
		{"http://slow/each", "UT", textTimeout, 504},
	} {
		resp, text := fetch(t, c, test.url)
		if resp.StatusCode != test.status || text != test.text {
			t.Errorf("%s: %d %q, want %d %q", test.url, resp.StatusCode, text, test.status, test.text)
		}
		m.eventually(test.url+" to be counted", func() error {
			if m.metric("istio_requests_total", `response_flags="`+test.flags+`"`, fmt.Sprintf(`response_code="%d"`, test.status)) == 0 {
				return errors.New("it isn't")
			}
			return nil
		})
		resp, _ = fetch(t, c, test.url, func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") })
		if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "14" {
			t.Errorf("%s by gRPC: %d, status %s, want 200 and 14", test.url, resp.StatusCode, resp.Header.Get("Grpc-Status"))
		}
	}
}

// The words are Istio's.
const (
	textNoEndpoint = "no healthy upstream"
	textConnect    = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
	textBroken     = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
	textTimeout    = "upstream request timeout"
)
