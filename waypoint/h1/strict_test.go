package h1

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// Every row is a request that is none, and the exact answer. The connection is closed after it, and no server hears of the request, but for
// those whose fault is within their body.
func TestMalformedRequests(t *testing.T) {
	get := "GET / HTTP/1.1\r\nHost: a\r\n"
	post := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name, request string
		status        int
		reason        string
	}{
		// Where a message ends.
		{"length and chunks", get + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-encoding and content-length together"},
		{"chunks and length", get + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "transfer-encoding and content-length together"},
		{"two lengths", get + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, "several content-lengths"},
		{"two equal lengths", get + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "several content-lengths"},
		{"a length after a length of 0", get + "Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc", 400, "several content-lengths"},
		{"length of 0 and chunks", get + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-encoding and content-length together"},
		{"a list of lengths", get + "Content-Length: 3, 3\r\n\r\nabc", 400, "a content-length that is no number of bytes"},
		{"length with a sign", get + "Content-Length: +3\r\n\r\nabc", 400, "a content-length that is no number of bytes"},
		{"negative length", get + "Content-Length: -3\r\n\r\nabc", 400, "a content-length that is no number of bytes"},
		{"hexadecimal length", get + "Content-Length: 0x3\r\n\r\nabc", 400, "a content-length that is no number of bytes"},
		{"empty length", get + "Content-Length:\r\n\r\n", 400, "a content-length that is no number of bytes"},
		{"length of 19 digits", get + "Content-Length: 1000000000000000000\r\n\r\n", 400, "a content-length that is no number of bytes"},
		{"two transfer-encodings", get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "several transfer-encodings"},
		{"chunked twice", get + "Transfer-Encoding: chunked, chunked\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"identity", get + "Transfer-Encoding: identity\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"compressed", get + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"almost chunked", get + "Transfer-Encoding: xchunked\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"chunked with a vertical tab", get + "Transfer-Encoding: \x0bchunked\r\n\r\n", 400, "a field's value has control characters"},
		{"chunks in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "transfer-encoding in HTTP/1.0"},

		// Lines and fields.
		{"LF alone", "GET / HTTP/1.1\nHost: a\n\n", 400, "a line doesn't end in CRLF"},
		{"LF alone first", "\nGET / HTTP/1.1", 400, "a line doesn't end in CRLF"},
		{"LF alone within", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "a line doesn't end in CRLF"},
		{"CR within a value", get + "X: a\rb\r\n\r\n", 400, "a field's value has control characters"},
		{"CR before the end of a line", get + "X: a\r\r\n\r\n", 400, "a field's value has control characters"},
		{"NUL within a value", get + "X: a\x00b\r\n\r\n", 400, "a field's value has control characters"},
		{"DEL within a value", get + "X: a\x7fb\r\n\r\n", 400, "a field's value has control characters"},
		{"folded field", get + "X: a\r\n b\r\n\r\n", 400, "a field that is folded over several lines"},
		{"folded by a tab", get + "X: a\r\n\tb: c\r\n\r\n", 400, "a field that is folded over several lines"},
		{"white space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "a field that is folded over several lines"},
		{"white space before the colon", get + "X : y\r\n\r\n", 400, "a field's name is none"},
		{"length with white space before the colon", get + "Content-Length : 3\r\n\r\nabc", 400, "a field's name is none"},
		{"no colon", get + "X\r\n\r\n", 400, "a field without a colon"},
		{"no name", get + ": x\r\n\r\n", 400, "a field's name is none"},
		{"name with a slash", get + "X/Y: x\r\n\r\n", 400, "a field's name is none"},
		{"name beyond ASCII", get + "X\xc3\xa9: x\r\n\r\n", 400, "a field's name is none"},
		{"NUL within a name", get + "X\x00: x\r\n\r\n", 400, "a field's name is none"},
		{"too many fields", get + strings.Repeat("x: y\r\n", maxFields) + "\r\n", 431, "too many fields"},
		{"head too long", get + "X: " + strings.Repeat("y", maxHead), 431, "the head is too long"},
		{"head too long, as a whole", get + "X: " + strings.Repeat("y", maxHead) + "\r\n\r\n", 431, "the head is too long"},
		{"target too long", "GET /" + strings.Repeat("y", maxHead+10), 414, "the target is too long"},

		// The first line.
		{"no request", "hello\r\n\r\n", 400, "the first line is no request's"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400, "a line doesn't end in CRLF"},
		{"HTTP/0.9", "GET /\r\n\r\n", 400, "the first line is no request's"},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is of no version of HTTP"},
		{"space within the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is of no version of HTTP"},
		{"space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "the first line is of no version of HTTP"},
		{"tabs", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is no request's"},
		{"two empty lines first", "\r\n\r\n" + get + "\r\n", 400, "the first line is no request's"},
		{"no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is no request's"},
		{"method that is no token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the first line is no request's"},
		{"small letters", "GET / http/1.1\r\nHost: a\r\n\r\n", 400, "the first line is of no version of HTTP"},
		{"version without a dot", "GET / HTTP/11\r\nHost: a\r\n\r\n", 400, "the first line is of no version of HTTP"},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "a version of HTTP that isn't served here"},
		{"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "a version of HTTP that isn't served here"},
		{"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, "CONNECT, which only proxies for clients serve"},

		// Targets and hosts.
		{"no slash", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"an escape that is none", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"half an escape", "GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"NUL in the target", "GET /a\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"URL of another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is neither a path nor a URL"},
		{"URL without a host", "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is no URL"},
		{"URL with a user", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is no URL"},
		{"URL with a fragment", "GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is no URL"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400, "no Host"},
		{"two Hosts", get + "Host: b\r\n\r\n", 400, "several Hosts"},
		{"two equal Hosts", get + "Host: a\r\n\r\n", 400, "several Hosts"},
		{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "several Hosts"},
		{"Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "a Host that is none"},
		{"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "a Host that is none"},
		{"Host with an escape", "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", 400, "a Host that is none"},
		{"Host with two ports", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", 400, "a Host that is none"},
		{"Host with a named port", "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400, "a Host that is none"},
		{"Host with half a bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "a Host that is none"},
		{"Host with brackets and more", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", 400, "a Host that is none"},
		{"Host with an address that is none", "GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n", 400, "a Host that is none"},
		{"URL with an escape in its host", "GET http://%41/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target is no URL"},
		{"Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "a Host that is none"},

		// Within a chunked body.
		{"no size", post + "\r\n", 400, "a chunk without a size"},
		{"size with a sign", post + "+3\r\nabc\r\n", 400, "a chunk without a size"},
		{"size with 0x", post + "0x3\r\nabc\r\n", 400, "a chunk without a size"},
		{"size with white space", post + "3 \r\nabc\r\n", 400, "a chunk without a size"},
		{"white space before the size", post + " 3\r\nabc\r\n", 400, "a chunk without a size"},
		{"impossible size", post + "1000000000000000\r\n", 400, "a chunk of an impossible size"},
		{"size of many zeros", post + strings.Repeat("0", 20) + "3\r\nabc\r\n", 400, "a chunk of an impossible size"},
		{"LF alone after the size", post + "3\nabc\r\n", 400, "the line before a chunk doesn't end in CRLF"},
		{"CR within an extension", post + "3;a\rb\r\nabc\r\n", 400, "a chunk without a size"},
		{"chunk longer than its size", post + "3\r\nabcd\r\n", 400, "a chunk is longer than it says"},
		{"LF alone after a chunk", post + "3\r\nabc\n0\r\n\r\n", 400, "a chunk is longer than it says"},
		{"line too long", post + "3;" + strings.Repeat("x", maxChunkLine+10), 400, "the line before a chunk is too long"},
		{"too many extensions", post + strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\na\r\n", 100), 400, "too many chunk extensions"},
		{"trailers too long", post + "0\r\nX: " + strings.Repeat("y", maxTrailers+10), 400, "the trailers are too long"},
		{"trailers too long, as a whole", post + "0\r\nX: " + strings.Repeat("y", maxTrailers) + "\r\n\r\n", 400, "the trailers are too long"},
		{"too many trailers", post + "0\r\n" + strings.Repeat("x: y\r\n", maxFields+1) + "\r\n", 431, "too many fields"},
		{"length as a trailer", post + "0\r\nContent-Length: 3\r\n\r\n", 400, "a trailer that only a head may have"},
		{"Host as a trailer", post + "0\r\nHost: 3\r\n\r\n", 400, "a trailer that only a head may have"},
		{"transfer-encoding as a trailer", post + "0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "a trailer that only a head may have"},
		{"LF alone in trailers", post + "0\r\nX: y\n\r\n", 400, "a line doesn't end in CRLF"},
		{"folded trailer", post + "0\r\nX: y\r\n z\r\n\r\n", 400, "a field that is folded over several lines"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProxy(t, "", ServerConfig{})
			p.handleBy(func(*exchange.Request, exchange.Client) exchange.Server {
				if !strings.HasPrefix(test.request, post) {
					t.Error("the request was handled")
				}
				return sink{}
			})
			c := p.dial()
			c.say("%s", test.request)
			want := fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s\n",
				test.status, http.StatusText(test.status), len(test.reason)+1, test.reason)
			if got := c.rest(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			told := 1
			if strings.HasPrefix(test.request, post) { // the server of what has begun hears of it instead
				told = 0
			}
			p.on(func() {
				if len(p.refused) != told {
					t.Errorf("told of %v", p.refused)
				}
			})
		})
	}
}

// sink is a server that takes everything and says nothing.
type sink struct{}

func (sink) Data([]byte)          {}
func (sink) End([]exchange.Field) {}
func (sink) Abort(error)          {}
func (sink) Consumed(int)         {}

// What looks odd and is right is taken as it is meant.
func TestUnusualRequests(t *testing.T) {
	for _, test := range []struct{ name, request, want string }{
		{"an empty line first", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / 0"},
		{"URL", "GET HTTP://b:80/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET b:80 /c?d 0"},
		{"URL without a path", "GET http://b?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET b /?d 0"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a * 0"},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET  / 0"},
		{"IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET [::1]:80 / 0"},
		{"beyond ASCII", "GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\n\r\n", "GET a /\xc3\xa9 0 x=\xc3\xa9"},
		{"white space around a value", "GET / HTTP/1.1\r\nHost: \t a \t\r\nX:y\r\nZ:\r\n\r\n", "GET a / 0 x=y z="},
		{"a tab within a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", "GET a / 0 x=a\tb"},
		{"fields of one name", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n", "GET a / 0 x=1 x=2"},
		{"length with zeros", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", "GET a / 3 abc"},
		{"capitals", "GET / HTTP/1.1\r\nHOST: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\nA\r\n0123456789\r\n00\r\n\r\n", "GET a / -1 0123456789"},
		{"extensions", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\";c\r\nabc\r\n0;d\r\nX: y\r\n\r\n", "GET a / -1 abc trailer x=y"},
		{"HTTP/1.0 without a Host", "GET / HTTP/1.0\r\n\r\n", "GET  / 0"},
	} {
		for _, step := range []int{1 << 20, 1} {
			t.Run(fmt.Sprintf("%s, %d bytes at once", test.name, step), func(t *testing.T) {
				p := newProxy(t, "", ServerConfig{})
				got := make(chan string, 1)
				p.handleBy(func(req *exchange.Request, client exchange.Client) exchange.Server {
					return &describer{req: req, client: client, told: got}
				})
				c := p.dial()
				_ = c.SetNoDelay(true)
				for request := test.request; request != ""; {
					n := min(step, len(request))
					c.say("%s", request[:n])
					request = request[n:]
				}
				if got := <-got; got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		}
	}
}

// describer tells what a request was.
type describer struct {
	sink
	req    *exchange.Request
	client exchange.Client
	body   string
	told   chan string
}

func (d *describer) Data(p []byte) {
	d.body += string(p)
	d.client.Consumed(len(p))
}

func (d *describer) End(trailers []exchange.Field) {
	line := fmt.Sprintf("%s %s %s %d", d.req.Method, d.req.Authority, d.req.Path, d.req.Length)
	for _, f := range d.req.Fields {
		line += " " + f.Name + "=" + f.Value
	}
	if d.body != "" {
		line += " " + d.body
	}
	for _, f := range trailers {
		line += " trailer " + f.Name + "=" + f.Value
	}
	d.told <- line
}

func TestSlowClients(t *testing.T) {
	for _, test := range []struct{ name, says, want string }{
		{"half a head", "GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 408 "},
		{"nothing", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProxy(t, "", ServerConfig{HeadTimeout: 30 * time.Millisecond, IdleTimeout: 30 * time.Millisecond})
			c := p.dial()
			c.say("%s", test.says)
			if got := c.rest(); !strings.HasPrefix(got, test.want) || (test.want == "" && got != "") {
				t.Errorf("got %q", got)
			}
			_ = c.TCPConn.Close()
			p.eventually("the connection to be over", func() bool { return p.closed == 1 })
		})
	}
}

// A client that never closes its end of a connection that we have ended is cut off.
func TestConnectionsThatClientsDoNotCloseAreCut(t *testing.T) {
	p := newProxy(t, "", ServerConfig{})
	c := p.dial()
	c.say("nonsense\r\n\r\n")
	if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("got %q", got)
	}
	began := time.Now()
	p.eventually("the connection to be over", func() bool { return p.closed == 1 })
	if waited := time.Since(began); waited > 2*lingerTime {
		t.Errorf("after %v", waited)
	}
}

// What filters put into heads can't make more than one head of it.
func TestFieldsWithLineBreaksAreNotSent(t *testing.T) {
	for _, value := range []string{"a\r\nX: y", "a\nb", "a\rb", "a\x00b"} {
		p := newProxy(t, newServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was asked") }), ServerConfig{})
		p.handleBy(func(req *exchange.Request, client exchange.Client) exchange.Server {
			req.Fields = append(req.Fields, exchange.Field{Name: "x", Value: value})
			return p.client().Handle(req, client)
		})
		c := p.dial()
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 502 ") {
			t.Errorf("%q: got %q", value, head)
		}
	}
}
