package h1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"testing"
)

// Both ends are net/http's, or made by hand; between them are this package's two roles.

func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = src.Read(p)
	return p
}

// mirror answers with the request's body, and says in fields what else it has seen.
func mirror(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Seen", fmt.Sprintf("%s %s %s %d %v", r.Method, r.Host, r.RequestURI, r.ContentLength, r.TransferEncoding))
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
	}
	w.Header().Set("Trailer", "Checked")
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
	w.Header().Set("Checked", "yes "+r.Trailer.Get("Sum"))
}

func TestRequestsAndAnswersPass(t *testing.T) {
	p := newProxy(t, newServer(t, mirror), ServerConfig{})
	client := newHTTPClient(t)
	for _, test := range []struct {
		name, method, path string
		size               int
		chunked            bool
		seen               string
	}{
		{"without a body", "GET", "/a?b=c%20d", 0, false, "GET shop.example /a?b=c%20d 0 []"},
		{"length", "POST", "/", 10, false, "POST shop.example / 10 []"},
		{"chunked", "PUT", "/x", 100, true, "PUT shop.example /x -1 [chunked]"},
		{"empty POST", "POST", "/", 0, false, "POST shop.example / 0 []"},
		{"large", "POST", "/", 5 << 20, false, "POST shop.example / 5242880 []"},
		{"large and chunked", "POST", "/", 5 << 20, true, "POST shop.example / -1 [chunked]"},
		{"another method", "PURGE", "/*", 3, false, "PURGE shop.example /* 3 []"},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := noise(test.size, 1)
			var body io.Reader = bytes.NewReader(content)
			if test.chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequest(test.method, p.url(test.path), body)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "shop.example"
			if test.chunked {
				req.Trailer = http.Header{"Sum": {"42"}}
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
			if seen := res.Header.Get("Seen"); seen != test.seen {
				t.Errorf("the server saw %q, want %q", seen, test.seen)
			}
			if test.chunked && res.Trailer.Get("Checked") != "yes 42" {
				t.Errorf("trailers %v", res.Trailer)
			}
		})
	}
	p.on(func() {
		if p.dialled != 1 || len(p.servers) != 1 {
			t.Errorf("%d connections to the server, %d from the client, want 1 each", p.dialled, len(p.servers))
		}
	})
}

func TestAnswersWithoutABody(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "12345")
		}
	}), ServerConfig{})
	c := p.dial()
	for _, test := range []struct{ method, path, want string }{
		{"HEAD", "/", "content-length: 12345"},
		{"GET", "/204", " 204 No Content"},
		{"GET", "/304", `etag: "x"`},
		{"HEAD", "/304", " 304 Not Modified"},
	} {
		c.say("%s %s HTTP/1.1\r\nHost: a\r\n\r\n", test.method, test.path)
		head := c.head() // what follows on the connection proves that there was no body
		if !strings.Contains(head, test.want) || strings.Contains(head, "transfer-encoding") {
			t.Errorf("%s %s: %q", test.method, test.path, head)
		}
	}
}

func TestInterimAnswersPass(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		_, _ = io.Copy(w, r.Body) // has net/http say 100
	}), ServerConfig{})
	var informed []string
	trace := &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			informed = append(informed, fmt.Sprint(code, header.Get("Link")))
			return nil
		},
		Got100Continue: func() { informed = append(informed, "continue") },
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", p.url("/"), strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue")
	res, err := newHTTPClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(got) != "content" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if want := "[103</style.css> continue 100]"; fmt.Sprint(informed) != want && fmt.Sprint(informed) != "[103</style.css> 100 continue]" {
		t.Errorf("informed of %v, want %s", informed, want)
	}
}

// A client that waits to be told to send, and is told no, may not be taken by its word what comes next.
func TestExpectationThatIsRefusedClosesTheConnection(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(413) }), ServerConfig{})
	c := p.dial()
	c.say("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n")
	head := c.head()
	if !strings.HasPrefix(head, "HTTP/1.1 413 ") || !strings.Contains(head, "connection: close\r\n") {
		t.Errorf("got %q", head)
	}
	c.say("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	if rest := c.rest(); rest != "" {
		t.Errorf("more was answered: %q", rest)
	}
}

func TestHTTP10Clients(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "5")
		}
		_, _ = io.WriteString(w, "he")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "llo")
	}), ServerConfig{})
	t.Run("end by close", func(t *testing.T) {
		c := p.dial()
		c.say("GET / HTTP/1.0\r\n\r\n")
		head := c.head()
		if strings.Contains(head, "chunked") || !strings.Contains(head, "connection: close\r\n") {
			t.Errorf("got %q", head)
		}
		if got := c.rest(); got != "hello" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("without keep-alive", func(t *testing.T) {
		c := p.dial()
		c.say("GET /length HTTP/1.0\r\n\r\n")
		if head := c.head(); !strings.Contains(head, "connection: close\r\n") {
			t.Errorf("got %q", head)
		}
		if got := c.rest(); got != "hello" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("keep-alive", func(t *testing.T) {
		c := p.dial()
		for range 2 {
			c.say("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			if head := c.head(); !strings.Contains(head, "connection: keep-alive\r\n") {
				t.Errorf("got %q", head)
			}
			if got := c.hear(5); got != "hello" {
				t.Errorf("got %q", got)
			}
		}
	})
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }), ServerConfig{})
	c := p.dial()
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, "POST /%02d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	c.say("%s", all.String())
	_ = c.CloseWrite()
	for i := range 20 {
		c.head()
		if got, want := c.hear(3), fmt.Sprintf("/%02d", i); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if rest := c.rest(); rest != "" {
		t.Errorf("and %q", rest)
	}
}

func TestConnectionClose(t *testing.T) {
	upstream := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/server" {
			w.Header().Set("Connection", "close")
		}
	})
	p := newProxy(t, upstream, ServerConfig{})
	c := p.dial()
	c.say("GET /server HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.head(); strings.Contains(head, "connection:") {
		t.Errorf("the server's wish to close reached the client: %q", head)
	}
	c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if head := c.head(); !strings.Contains(head, "connection: close\r\n") {
		t.Errorf("got %q", head)
	}
	if rest := c.rest(); rest != "" {
		t.Errorf("and %q", rest)
	}
	p.on(func() {
		if p.dialled != 2 || len(p.free) != 1 {
			t.Errorf("%d connections to the server, %d free", p.dialled, len(p.free))
		}
	})
}

// What is between a client and its next hop only isn't handed on, and what names it neither.
func TestHopByHopFieldsStay(t *testing.T) {
	var seen http.Header
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) { seen = r.Header }), ServerConfig{})
	c := p.dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\n" +
		"Proxy-Connection: x\r\nUpgrade: websocket\r\nX-Public: 2\r\n\r\n")
	c.head()
	if fmt.Sprint(seen) != "map[Connection:[te] Te:[trailers] X-Public:[2]]" {
		t.Errorf("the server saw %v", seen)
	}
}

func TestUpgradedConnectionsCarryBytes(t *testing.T) {
	upstream := script(t, func(c *rawClient) {
		head := c.head()
		if !strings.Contains(head, "connection: upgrade\r\nupgrade: websocket\r\n") {
			t.Errorf("the server saw %q", head)
		}
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nhello")
		_, _ = io.Copy(c.TCPConn, c)
		c.say("bye")
	})
	p := newProxy(t, upstream, ServerConfig{})
	c := p.dial()
	content := string(noise(300_000, 3))
	c.say("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "x: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n") {
		t.Errorf("got %q", head)
	}
	if got := c.hear(5); got != "hello" {
		t.Errorf("got %q", got)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		c.say("%s", content)
		_ = c.CloseWrite()
	})
	if got := c.rest(); got != content+"bye" {
		t.Errorf("%d bytes came back", len(got))
	}
	writing.Wait()
}

// HTTP within HTTP would be seen by nobody: a client that wants it is taken for one that doesn't, and a server can't begin it.
func TestAnUpgradeToOtherHTTPIsNone(t *testing.T) {
	upstream := script(t, func(c *rawClient) {
		if head := c.head(); !strings.Contains(head, "\r\nconnection: upgrade\r\nupgrade: chat\r\n") {
			t.Errorf("the server saw %q", head)
		}
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	})
	c := newProxy(t, upstream, ServerConfig{}).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, chat\r\nUpgrade: TLS/1.2\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 502 ") {
		t.Errorf("got %q, want 502", head)
	}
}

// What comes after the head has to be the request's body, or bytes of the other protocol, for both ends alike: with a body there is no upgrade.
func TestARequestWithABodyAsksForNoUpgrade(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%q %s", r.Header.Get("Upgrade"), body)
	}), ServerConfig{})
	c := p.dial()
	for _, body := range []string{"Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
		c.say("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s", body)
		res, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); string(got) != `"" abc` || err != nil {
			t.Errorf("the server saw %s, %v", got, err)
		}
	}
}

func TestUpgradeThatIsRefusedIsAnOrdinaryAnswer(t *testing.T) {
	p := newProxy(t, newServer(t, func(http.ResponseWriter, *http.Request) {}), ServerConfig{})
	c := p.dial()
	for range 2 {
		c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("got %q", head)
		}
	}
}

// A server that answers by closing, as those of HTTP/1.0 do, takes no further request.
func TestAnswersThatEndByClose(t *testing.T) {
	for _, version := range []string{"1.0", "1.1"} {
		p := newProxy(t, script(t, func(c *rawClient) {
			c.head()
			c.say("HTTP/%s 200 OK\r\nX: y\r\n\r\nall of it", version)
		}), ServerConfig{})
		c := p.dial()
		for range 2 {
			c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(c.Reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "all of it" {
				t.Errorf("HTTP/%s: got %q, %v", version, got, err)
			}
		}
		p.on(func() {
			if p.freed > 0 {
				t.Errorf("HTTP/%s: a connection that ends is used again", version)
			}
		})
	}
}

// A client that reads slowly slows its server; one that doesn't send makes the server wait. Nothing is lost, and little is kept.
func TestSlowReadersSlowTheirWriters(t *testing.T) {
	const size = 40 << 20
	content := noise(size, 4)
	for _, upload := range []bool{false, true} {
		t.Run(fmt.Sprintf("upload=%v", upload), func(t *testing.T) {
			hold, sent := make(chan struct{}), make(chan struct{})
			p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
				if upload {
					<-hold
					got, err := io.ReadAll(r.Body)
					_, _ = fmt.Fprint(w, bytes.Equal(got, content), err)
					return
				}
				_, _ = w.Write(content)
				close(sent)
			}), ServerConfig{})
			c := p.dial()
			_ = c.SetReadBuffer(32 << 10)
			var writing sync.WaitGroup
			if upload {
				writing.Go(func() { c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, content) })
			} else {
				c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			}
			last := -1
			p.eventually("everything to stand still", func() bool {
				waiting := 0
				for _, s := range p.servers {
					waiting += s.pipe.Waiting()
				}
				for _, client := range p.clients {
					waiting += client.pipe.Waiting()
				}
				still := waiting > 0 && waiting == last
				if last = waiting; waiting > 64<<10+256<<10+64<<10 {
					t.Errorf("%d bytes wait", waiting)
				}
				return still
			})
			select {
			case <-sent:
				t.Error("the server has sent everything to a client that reads nothing")
			default:
			}
			close(hold)
			res, err := http.ReadResponse(c.Reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if upload {
				if string(got) != "true <nil>" || err != nil {
					t.Errorf("the server got something else: %q, %v", got, err)
				}
			} else if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes came, %v", len(got), err)
			}
			writing.Wait()
		})
	}
}

func TestClientThatGoesAwayIsHeardByTheServer(t *testing.T) {
	for _, test := range []struct{ name, request string }{
		{"while it waits", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"within its body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			began, gone := make(chan struct{}), make(chan error, 1)
			p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
				close(began)
				_, err := io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				gone <- err
			}), ServerConfig{})
			c := p.dial()
			c.say("%s", test.request)
			<-began
			_ = c.SetLinger(0)
			_ = c.TCPConn.Close()
			if err := <-gone; (err != nil) != strings.Contains(test.request, "POST") {
				t.Errorf("the server read the body with %v", err)
			}
			p.eventually("the connection to the server to be dropped", func() bool { return len(p.clients) == 0 })
		})
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, test := range []struct {
		name, answer string
		want         string // "" for an answer that breaks off
	}{
		{"nothing", "", "HTTP/1.1 502 "},
		{"half a head", "HTTP/1.1 200 OK\r\nX", "HTTP/1.1 502 "},
		{"no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", "HTTP/1.1 502 "},
		{"length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 502 "},
		{"length of 0 and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 502 "},
		{"chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 502 "},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 502 "},
		{"an upgrade nobody asked for", "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 502 "},
		{"less than it says", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", ""},
		{"a broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n", ""},
		{"chunks that are cut off", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", ""},
		{"chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProxy(t, script(t, func(c *rawClient) {
				c.head()
				c.say("%s", test.answer)
			}), ServerConfig{})
			c := p.dial()
			c.say(request)
			res, err := http.ReadResponse(c.Reader, nil)
			if test.want == "" {
				if err == nil {
					_, err = io.ReadAll(res.Body)
				}
				if err == nil {
					t.Error("the answer looks whole")
				}
				return
			}
			if err != nil || res.StatusCode != 502 {
				t.Errorf("got %v, %v", res, err)
			}
		})
	}
}

// A head in an answer to a request that is still being sent ends the exchange, and the connection goes on when the rest of it is small.
func TestAnswerBeforeTheRequestIsComplete(t *testing.T) {
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "early")
	}), ServerConfig{})
	for _, size := range []int{1000, 100 << 20} {
		c := p.dial()
		c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
		res, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); string(got) != "early" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		_, err = io.CopyN(c.TCPConn, zeros{}, int64(size))
		if size > maxUnwanted {
			if _, err := c.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection goes on after a body that nobody wanted: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("got %q", head)
		}
	}
}

// What is left on a connection to a server would be taken for the next request's, or for its answer.
func TestConnectionsOnWhichSomethingIsLeftAreNotUsedAgain(t *testing.T) {
	const get, ok = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, test := range map[string]struct {
		request, answer, later string
		freed                  int // since it wasn't known yet
	}{
		"more than the answer":            {get, ok + ok, "", 0},
		"an answer that nobody asked for": {get, ok, ok, 1},
		"an answer of HTTP/1.0":           {get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "", 0},
		"a request that isn't complete":   {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", ok, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan struct{})
			p := newProxy(t, script(t, func(c *rawClient) {
				c.head()
				c.say("%s", test.answer)
				<-heard
				if test.later != "" {
					c.say("%s", test.later)
				}
				_, _ = io.Copy(io.Discard, c)
			}), ServerConfig{})
			c := p.dial()
			c.say("%s", test.request)
			c.head()
			if got := c.hear(2); got != "ok" {
				t.Errorf("got %q", got)
			}
			close(heard)
			p.eventually("the connection to be let go of", func() bool { return len(p.clients) == 0 })
			p.on(func() {
				if p.freed != test.freed {
					t.Errorf("it was free %d times, want %d", p.freed, test.freed)
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDrainLetsTheExchangeEnd(t *testing.T) {
	began, hold := make(chan struct{}), make(chan struct{})
	p := newProxy(t, newServer(t, func(w http.ResponseWriter, r *http.Request) { close(began); <-hold }), ServerConfig{})
	busy, idle := p.dial(), p.dial()
	busy.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-began
	p.eventually("both connections", func() bool { return len(p.servers) == 2 })
	p.on(func() {
		for _, s := range p.servers {
			s.Drain()
		}
	})
	if rest := idle.rest(); rest != "" {
		t.Errorf("the idle connection says %q", rest)
	}
	close(hold)
	if head := busy.head(); !strings.Contains(head, "connection: close\r\n") {
		t.Errorf("got %q", head)
	}
	if rest := busy.rest(); rest != "" {
		t.Errorf("and %q", rest)
	}
}
