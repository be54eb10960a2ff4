package h1

import (
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// A request and its answer cost a head's text and an exchange's state on each side, whatever they consist of.
func TestAllocationsOfARequest(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: a\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello")
	p := newProxy(t, script(t, func(c *rawClient) {
		var in [4 << 10]byte
		for {
			if _, err := c.TCPConn.Read(in[:]); err != nil {
				return
			}
			_, _ = c.Write(answer)
		}
	}), ServerConfig{})
	c := p.dial()
	request := []byte("POST /a/b?c HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: test\r\nAccept: */*\r\nX-Request-Id: 1\r\nContent-Length: 3\r\n\r\nabc")
	var in [4 << 10]byte
	one := func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := c.TCPConn.Read(in[:]); err != nil {
			t.Fatal(err)
		}
	}
	one()
	n := testing.AllocsPerRun(300, one)
	t.Logf("%v allocations", n)
	if n > 7 { // four, and what loops that rest cost, and pools under the race detector
		t.Errorf("%v allocations", n)
	}
}

// An idle connection owns little.
func TestIdleConnectionsOwnLittle(t *testing.T) {
	const connections = 2000
	p := newProxy(t, "", ServerConfig{})
	used := func() (bytes uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var clients []net.Conn
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	listening := onloop.Listen(t, p.loop, func(fd int) { p.servers = append(p.servers, Serve(pipe.OverSocket(p.loop, fd, nil), p.cfg)) })
	dial := func() {
		conn, err := net.Dial("tcp", listening)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, conn)
		if _, err := io.WriteString(conn, "GET"); err != nil { // half a head is kept
			t.Fatal(err)
		}
	}
	dial()
	before := used()
	for range connections {
		dial()
	}
	p.eventually("all to be there", func() bool {
		n := 0
		for _, s := range p.servers {
			if s.seen > 0 {
				n++
			}
		}
		return n == connections+1
	})
	each := (used() - before) / connections
	t.Logf("%d bytes for each, with its client's end", each)
	if each > 3<<10 {
		t.Errorf("%d bytes for each", each)
	}
}
