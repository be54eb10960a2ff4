package downstream

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hello is the ClientHello of crypto/tls for a name.
func hello(tb testing.TB, name string) string {
	tb.Helper()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	config := &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}
	go func() { _ = tls.Client(far, config).Handshake() }()
	header := make([]byte, 5)
	if _, err := io.ReadFull(near, header); err != nil {
		tb.Fatal(err)
	}
	rest := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(near, rest); err != nil {
		tb.Fatal(err)
	}
	return string(header) + string(rest)
}

// split makes two records of a ClientHello in one.
func split(record string, at int) string {
	body := record[5:]
	part := func(s string) string { return record[:3] + string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	return part(body[:at]) + part(body[at:])
}

func TestWhatConnectionsSpeak(t *testing.T) {
	named, nameless := hello(t, "Shop.example"), hello(t, "")
	for _, test := range []struct {
		name  string
		port  Port
		says  string
		found Found
	}{
		{"HTTP/1.1", Auto, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", Found{Protocol: HTTP1}},
		{"HTTP/1.0, a line only", Auto, "DELETE /a HTTP/1.0\r\n", Found{Protocol: HTTP1}},
		{"a method nobody knows", Auto, "FROB /a HTTP/1.1\r\n", Found{Protocol: HTTP1}},
		{"HTTP/2", Auto, preface + "more", Found{Protocol: HTTP2}},
		{"TLS", Auto, named, Found{Encrypted, "shop.example"}},
		{"TLS without a name", Auto, nameless, Found{Protocol: Encrypted}},
		{"TLS in two records", Auto, split(named, 50), Found{Encrypted, "shop.example"}},
		{"TLS that is none", Auto, "\x16\x03\x01\x00\x05hello", Found{}},
		{"TLS of an impossible length", Auto, "\x16\x03\x01\xff\xffhello", Found{}},
		{"bytes", Auto, "\x00\x01\x02", Found{}},
		{"a line of something", Auto, "EHLO shop.example\r\n", Found{}},
		{"a word and nothing", Auto, strings.Repeat("A", maxLine), Found{}},
		{"a very long line", Auto, "GET /" + strings.Repeat("a", maxLine), Found{Protocol: HTTP1}},
		{"a very long method", Auto, strings.Repeat("A", 100) + " / HTTP/1.1\r\n", Found{Protocol: HTTP1}},
		{"an empty line first", Auto, "\r\nGET / HTTP/1.1\r\n", Found{Protocol: HTTP1}},
		{"several empty lines first", Auto, "\n\r\n\nGET / HTTP/1.1\r\n", Found{Protocol: HTTP1}},
		{"too many spaces", Auto, "GET  /  HTTP/1.1 \r\n", Found{Protocol: HTTP1}},
		{"tabs", Auto, "GET\t/\tHTTP/1.1\r\n", Found{Protocol: HTTP1}},
		{"small letters", Auto, "get / http/1.1\n", Found{Protocol: HTTP1}},
		{"an impossible version", Auto, "GET / HTTP/9\r\n", Found{Protocol: HTTP1}},
		{"HTTP/0.9", Auto, "GET /\r\n", Found{}},
		{"almost HTTP/2", Auto, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Found{Protocol: HTTP1}},
		{"HTTP/1 on a port of HTTP", HTTP, "nonsense", Found{Protocol: HTTP1}},
		{"HTTP/2 on a port of HTTP", HTTP, preface, Found{Protocol: HTTP2}},
		{"PRI of HTTP/1", HTTP, "PRI /", Found{Protocol: HTTP1}},
		{"TLS on a port of TLS", TLS, named, Found{Encrypted, "shop.example"}},
		{"HTTP on a port of TLS", TLS, "GET /a HTTP/1.1\r\n", Found{}},
		{"HTTP on a port of TCP", TCP, "GET /a HTTP/1.1\r\n", Found{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := onloop.New(t)
			conn, fd := onloop.Socket(t)
			found := make(chan Found, 2)
			rest := &collector{done: make(chan string, 1)}
			onloop.Do(t, l, func() {
				rest.pipe = pipe.OverSocket(l, fd, nil)
				Detect(rest.pipe, test.port, func(f Found) {
					found <- f
					rest.pipe.Start(rest)
				}, func(err error) { t.Error(err) })
			})
			for says := test.says; says != ""; says = says[min(len(says), 7):] {
				if _, err := io.WriteString(conn, says[:min(len(says), 7)]); err != nil {
					t.Fatal(err)
				}
			}
			if f := <-found; f != test.found {
				t.Errorf("found %+v, want %+v", f, test.found)
			}
			_ = conn.CloseWrite()
			if got := <-rest.done; got != test.says {
				t.Errorf("the next user got %q", got)
			}
		})
	}
}

// collector gets all until the end.
type collector struct {
	pipe *pipe.Pipe
	got  string
	done chan string
}

func (c *collector) Receive(p []byte, end bool) int {
	c.got += string(p)
	if end {
		c.done <- c.got
		c.pipe.End()
	}
	return len(p)
}

func (c *collector) Sent()        {}
func (c *collector) Broken(error) {}

func TestServersThatSpeakFirst(t *testing.T) {
	l := onloop.New(t)
	conn, fd := onloop.Socket(t)
	found := make(chan Found, 2)
	var p *pipe.Pipe
	began := time.Now()
	onloop.Do(t, l, func() {
		p = pipe.OverSocket(l, fd, nil)
		Detect(p, Auto, func(f Found) { found <- f }, func(err error) { t.Error(err) })
	})
	if f := <-found; f != (Found{Protocol: Silent}) {
		t.Errorf("found %+v", f)
	}
	if waited := time.Since(began); waited < SilenceTime || waited > 4*SilenceTime {
		t.Errorf("after %v", waited)
	}
	onloop.Do(t, l, func() { p.Reset() })
	_ = conn.Close()
}

func TestClientsThatGoBeforeTheySpeak(t *testing.T) {
	l := onloop.New(t)
	conn, fd := onloop.Socket(t)
	gone := make(chan error, 1)
	onloop.Do(t, l, func() {
		Detect(pipe.OverSocket(l, fd, nil), HTTP, func(f Found) { t.Errorf("found %+v", f) }, func(err error) { gone <- err })
	})
	_ = conn.SetLinger(0)
	_ = conn.Close()
	if err := <-gone; err == nil {
		t.Error("gone without a reason")
	}
}

// Whatever the first bytes are, looking at them ends, and what is sure stays so with more of them.
func FuzzLook(f *testing.F) {
	for _, says := range []string{"GET / HTTP/1.1\r\n", preface, hello(f, "shop.example"), split(hello(f, "a.b"), 20), "\x16\x03\x01\x00\x05hello", "x"} {
		f.Add([]byte(says))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, port := range []Port{Auto, HTTP, TLS} {
			whole, sure := look(p, port)
			if !sure && len(p) > maxHello {
				t.Fatalf("%d bytes are not enough for port %d", len(p), port)
			}
			for n := 1; n < len(p) && n < 300; n++ {
				if part, early := look(p[:n], port); early && part != whole {
					t.Fatalf("port %d: %+v after %d bytes, %+v after %d", port, part, n, whole, len(p))
				}
			}
			if strings.ToLower(whole.ServerName) != whole.ServerName {
				t.Fatalf("name %q", whole.ServerName)
			}
		}
	})
}
