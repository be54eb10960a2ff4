package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// gRPC for browsers goes by any HTTP, and its servers needn't speak HTTP/2.
func TestWhatOnlyBeginsLikeGRPCIsNotTakenForIt(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Proto, body)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	for kind, version := range map[string]string{
		"application/grpc": "HTTP/2.0", "application/grpc+proto": "HTTP/2.0", "application/grpc;x=y": "HTTP/2.0", "application/grpc ; x=y": "HTTP/2.0",
		"application/grpc-web": "HTTP/1.1", "application/grpc-web+proto": "HTTP/1.1", "application/grpc-web-text": "HTTP/1.1", "application/grpcs": "HTTP/1.1",
	} {
		_, text := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("hello"))
			r.Header.Set("Content-Type", kind)
		})
		if want := version + " hello"; text != want {
			t.Errorf("%s: %q, want %q", kind, text, want)
		}
	}
}
