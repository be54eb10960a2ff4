package daemon

//lint:file-ignore SA1019 net/http itself takes the pseudo field :protocol for no name of a field, and has no other way to say it.

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// shout becomes what the client wants to speak, and says lines back in capitals.
func shout(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: of-%d\r\n\r\n",
		r.Header.Get("Upgrade"), len(r.Header.Get("Sec-WebSocket-Key")))
	for {
		line, err := buffered.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(conn, strings.ToUpper(line))
	}
}

func TestWebSocketsByHTTP2ReachServersOfHTTP1(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, shout)
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	caller := m.caller("shop", "client")
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(_ context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		return m.through(caller, "web")
	}}
	defer transport.CloseIdleConnections()
	for range 2 { // over the same connection
		in, out := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), "CONNECT", "http://web/chat", in)
		if err != nil {
			t.Fatal(err)
		}
		req.Header[":protocol"] = []string{"websocket"}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || resp.Header.Get("Sec-WebSocket-Accept") != "" {
			t.Errorf("%s %v, want 200 without HTTP/1.1's proof", resp.Status, resp.Header)
		}
		lines := bufio.NewReader(resp.Body)
		for _, word := range []string{"hello", "again"} {
			fmt.Fprintln(out, word)
			if line, err := lines.ReadString('\n'); line != strings.ToUpper(word)+"\n" {
				t.Errorf("%q, %v", line, err)
			}
		}
		_ = out.Close()
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("at the end %q, %v", rest, err)
		}
		_ = resp.Body.Close()
	}
	if n := m.metric("istio_requests_total", `response_code="101"`); n != 2 {
		t.Errorf("%v requests of status 101 are counted, want 2", n)
	}
}
