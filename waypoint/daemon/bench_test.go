package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// answers is a server that allocates nothing: it answers whatever ends with an empty line.
func (m *mesh) answers(tb testing.TB, host byte) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 8080).String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer, answer := make([]byte, 16<<10), []byte("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n"+strings.Repeat("x", 1024))
				for {
					if _, err := conn.Read(buffer); err != nil {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// BenchmarkRequest is one request after the other through a tunnel, with a route and a policy; the allocations are the waypoint's and a few of
// its client's.
func BenchmarkRequest(b *testing.B) {
	m := newMesh(b)
	m.answers(b, serverHost)
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web", rule("/", "web")), policy("all", "web", l7.Policy_ALLOW, may("client", "GET")))
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	request := []byte("GET /index.html HTTP/1.1\r\nHost: web\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Request-Id: 1\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) <= 2 {
				break
			}
			if strings.HasPrefix(strings.ToLower(string(line)), "content-length:") {
				_, _ = fmt.Sscan(string(line[len("content-length:"):]), &length)
			}
		}
		if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
			b.Fatal(err)
		}
	}
}
