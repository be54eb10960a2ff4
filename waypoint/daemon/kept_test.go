package daemon

import (
	"bufio"
	"fmt"
	"net/http"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// A client's connection may live long. Its requests go by what its service is now, with routes or without.
func TestRequestsOfAKeptConnectionGoByWhatTheirServiceIsNow(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Proto", r.Proto) })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() (int, string) {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("X-Proto")
	}
	if status, proto := ask(); status != 200 || proto != "HTTP/1.1" {
		t.Errorf("%d %s, want 200 by HTTP/1.1", status, proto)
	}
	m.know(m.service("web", workload.AppProtocol_HTTP2, 8080, serverHost)...)
	m.eventually("the service to be spoken to in HTTP/2", func() error {
		if status, proto := ask(); status != 200 || proto != "HTTP/2.0" {
			return fmt.Errorf("%d %s", status, proto)
		}
		return nil
	})
}
