package admin_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/admin"
)

// connections are more than a server holds.
const connections = 200

// crowd opens connections, writes to each, and waits for as much of an answer as is wanted.
func crowd(t *testing.T, addr, request, answer string) {
	t.Helper()
	for range connections {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		if answer == "" {
			continue
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, answer) {
			t.Fatalf("%q %v", line, err)
		}
	}
}

func TestAProbeIsAnsweredWhoeverHoldsConnections(t *testing.T) {
	for name, test := range map[string]struct{ request, answer string }{
		"open":             {"", ""},
		"slow":             {"GET /ready HTTP/1.1\r\nHost", ""},
		"idle":             {"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", "200"},
		"reading nothing":  {"GET /dump HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"asking for ever":  {"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"sending no body":  {"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", ""},
		"no HTTP whatever": {"\x16\x03\x01", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "127.0.0.1:0", admin.Pages("test", []admin.Page{
				{Path: "/ready", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ready") })},
				{Path: "/stuck", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })},
				{Path: "/body", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) })},
				admin.JSON("/dump", "", func() any { return strings.Repeat("x", 8<<20) }),
			}), io.Discard)
			addr := s.Addrs()[0].String()
			crowd(t, addr, test.request, test.answer)
			began := time.Now()
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := client.Get("http://" + addr + "/ready")
			if err != nil {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
			response.Body.Close()
		})
	}
}

func TestAPageIsMadeAFewTimesAtOnce(t *testing.T) {
	making := make(chan struct{}, connections)
	s := start(t, "127.0.0.1:0", admin.Pages("test", []admin.Page{
		admin.JSON("/dump", "", func() any { making <- struct{}{}; return strings.Repeat("x", 8<<20) }),
	}), io.Discard)
	addr := s.Addrs()[0].String()
	readsNothing := "GET /dump HTTP/1.1\r\nHost: x\r\n\r\n"
	for range 5 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, readsNothing); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		select {
		case <-making:
		case <-time.After(20 * time.Second):
			t.Fatal("nobody's page is made")
		}
	}
	if status, body := ask(t, "GET", "http://"+addr+"/dump", nil); status != http.StatusServiceUnavailable || !strings.Contains(body, "try again") {
		t.Errorf("%d %.100q", status, body)
	}
	if more := len(making); more != 0 {
		t.Errorf("%d more than two are made at once", more)
	}
}
