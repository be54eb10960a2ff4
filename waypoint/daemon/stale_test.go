package daemon

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
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

// A server that goes closes the connections that it hasn't looked at yet. What makes no difference is then sent to another server, if there is one,
// and only once more: what no server answers would go round otherwise.
func TestOnlyWhatMakesNoDifferenceIsSentToAnotherServerWhenANewConnectionCloses(t *testing.T) {
	for _, test := range []struct {
		what, method   string
		closing, alive byte
		status, seen   int // how many closing servers see it
	}{
		{"GET, another server", "GET", 1, 1, 200, 1},
		{"POST, another server", "POST", 1, 1, 503, 1},
		{"GET, no other server", "GET", 1, 0, 503, 1},
		{"GET, no server that answers", "GET", 3, 0, 503, 2},
	} {
		t.Run(test.what, func(t *testing.T) {
			m := newMesh(t)
			var seen atomic.Int32
			var hosts []byte
			for i := range test.closing {
				hosts = append(hosts, serverHost+i)
				m.serve(serverHost+i, func(http.ResponseWriter, *http.Request) {
					seen.Add(1)
					panic(http.ErrAbortHandler)
				})
			}
			for i := range test.alive {
				hosts = append(hosts, serverHost+test.closing+i)
				m.serve(serverHost+test.closing+i, echo("alive"))
			}
			m.know(m.service("web", httpPort, 8080, hosts...)...)
			c := m.browser(m.caller("shop", "client"))
			for range 50 { // until the closing server is chosen first
				resp, text := fetch(t, c, "http://web/", func(r *http.Request) { r.Method = test.method })
				n := int(seen.Swap(0))
				if n == 0 {
					continue
				}
				if resp.StatusCode != test.status || n != test.seen {
					t.Errorf("status %d, %d closing servers see it, want %d, %d: %s", resp.StatusCode, n, test.status, test.seen, text)
				}
				return
			}
			t.Error("the closing server was never chosen")
		})
	}
}
