package daemon

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// closing is a server of HTTP/2 that closes its connections when a request comes, after it has said something of it or nothing.
func (m *mesh) closing(host byte, begins bool, seen *atomic.Int32) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 8080).String())
	if err != nil {
		m.t.Fatal(err)
	}
	var serving sync.WaitGroup
	m.t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				framer := http2.NewFramer(conn, conn)
				_ = framer.WriteSettings()
				for {
					frame, err := framer.ReadFrame()
					if err != nil {
						return
					}
					if frame.Header().Type == http2.FrameHeaders {
						seen.Add(1)
						if begins { // :status 100, as HPACK has it without tables
							_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.Header().StreamID, EndHeaders: true, BlockFragment: []byte("\x08\x03100")})
						}
						return
					}
				}
			})
		}
	})
}

// What holds for servers of HTTP/1 that close a connection instead of answering holds for those of HTTP/2.
func TestAServerOfHTTP2ThatClosesInsteadOfAnsweringIsLeftForAnother(t *testing.T) {
	for _, test := range []struct {
		what, method string
		begins       bool
		status       int
	}{
		{"GET", "GET", false, 200},
		{"POST", "POST", false, 503},
		{"GET of which it said something", "GET", true, 503},
	} {
		t.Run(test.what, func(t *testing.T) {
			m := newMesh(t)
			var seen atomic.Int32
			m.closing(serverHost, test.begins, &seen)
			m.serve(serverHost+1, echo("alive"))
			m.know(m.service("web", workload.AppProtocol_HTTP2, 8080, serverHost, serverHost+1)...)
			c := m.browser2(m.caller("shop", "client"))
			for range 50 { // until the closing server is chosen first
				resp, text := fetch(t, c, "http://web/", func(r *http.Request) { r.Method = test.method })
				n := seen.Swap(0)
				if n == 0 {
					continue
				}
				if resp.StatusCode != test.status || n != 1 {
					t.Errorf("status %d, the closing server sees it %d times; want %d, once: %s", resp.StatusCode, n, test.status, text)
				}
				return
			}
			t.Error("the closing server was never chosen")
		})
	}
}
