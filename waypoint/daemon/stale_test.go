package daemon

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
)

// A server may close a connection that is kept just when a request comes. What makes no difference is sent again; what might is not, as nobody
// knows whether it was done (RFC 9110 section 9.2.2).
func TestOnlyWhatMakesNoDifferenceIsSentAgainWhenItsConnectionCloses(t *testing.T) {
	m := newMesh(t)
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(serverHost), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			serving.Go(func() { // answers one request, and hears one more
				defer conn.Close()
				requests := bufio.NewReader(conn)
				for answers := range 2 {
					req, err := http.ReadRequest(requests)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					mu.Lock()
					seen[req.Method]++
					mu.Unlock()
					if answers == 0 {
						_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close() })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	ask := func(method string) int {
		resp, _ := fetch(t, c, "http://web/", func(r *http.Request) { r.Method = method })
		return resp.StatusCode
	}
	for _, test := range []struct {
		method       string
		status, seen int
	}{{"GET", 204, 2}, {"PUT", 204, 2}, {"POST", 503, 1}, {"PATCH", 503, 1}, {"DELETE", 204, 2}} {
		for range 3 { // until one is answered, whose connection is kept
			if ask("OPTIONS") == 204 {
				break
			}
		}
		mu.Lock()
		clear(seen)
		mu.Unlock()
		status := ask(test.method)
		mu.Lock()
		if status != test.status || seen[test.method] != test.seen {
			t.Errorf("%s: status %d, the server sees it %d times; want %d, %d times", test.method, status, seen[test.method], test.status, test.seen)
		}
		mu.Unlock()
	}
}
