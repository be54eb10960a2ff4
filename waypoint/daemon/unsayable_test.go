package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// What can't be put to a server in HTTP/2 is answered as its client's fault, isn't tried again, and says nothing against the server.
func TestWhatCannotBePutToAServerIsNotItsFault(t *testing.T) {
	m := newMesh(t)
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(serverHost), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	serving.Go(func() { // a server that takes heads of 8 KiB, as those of gRPC do
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			serving.Go(func() {
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				framer := http2.NewFramer(conn, conn)
				_ = framer.WriteSettings(http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 8 << 10})
				for {
					frame, err := framer.ReadFrame()
					if err != nil {
						return
					}
					switch frame := frame.(type) {
					case *http2.SettingsFrame:
						if !frame.IsAck() {
							_ = framer.WriteSettingsAck()
						}
					case *http2.HeadersFrame:
						var block strings.Builder
						_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
						_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, EndHeaders: true, EndStream: true, BlockFragment: []byte(block.String())})
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close() })
	m.know(m.service("web", workload.AppProtocol_HTTP2, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 3, BackoffMs: 1}
	m.know(httpRoute("web", "web", again))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		what, header, value string
		status              int
	}{
		{"an ordinary one", "X-A", "b", 204},
		{"a long head", "X-A", strings.Repeat("b", 10<<10), 431},
		{"an upgrade", "Upgrade", "websocket", 501},
		{"another ordinary one", "X-A", "b", 204},
	} {
		resp, text := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Header.Set(test.header, test.value)
			if test.header == "Upgrade" {
				r.Header.Set("Connection", "upgrade")
			}
		})
		if resp.StatusCode != test.status {
			t.Errorf("%s: %d %s, want %d", test.what, resp.StatusCode, text, test.status)
		}
	}
	m.eventually("all to be counted", func() error {
		if n := m.metric("istio_requests_total", `response_flags="-"`); n != 4 {
			return fmt.Errorf("%v without a flag", n)
		}
		return nil
	})
	m.eventually("the access log", func() error {
		if strings.Count(m.log.String(), "request complete") != 4 {
			return errors.New("not all requests")
		}
		return nil
	})
	if strings.Contains(m.log.String(), "tries=") {
		t.Error("some were tried again")
	}
}
