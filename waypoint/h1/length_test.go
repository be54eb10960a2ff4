package h1

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// speaker is a server that answers with a head that says a length, and a body that may have another.
type speaker struct {
	sink
	client exchange.Client
	length int64
	body   string
}

func (s *speaker) End([]exchange.Field) {
	s.client.Inform(&exchange.Response{Version: exchange.HTTP11, Status: 103})
	s.client.Respond(&exchange.Response{Version: exchange.HTTP11, Status: 200, Length: s.length})
	s.client.Data([]byte(s.body))
	s.client.End(nil)
}

// speak has a proxy answer so.
func speak(t *testing.T, length int64, body string) *rawClient {
	p := newProxy(t, "", ServerConfig{})
	p.handleBy(func(_ *exchange.Request, client exchange.Client) exchange.Server {
		return &speaker{client: client, length: length, body: body}
	})
	return p.dial()
}

// Of an answer that isn't as long as it says the client would take the rest from the next one, or for it: the connection breaks off.
func TestAnswersThatAreNotAsLongAsTheySayBreakOff(t *testing.T) {
	for _, test := range []struct {
		body  string
		whole bool
	}{{"abc", true}, {"ab", false}, {"", false}, {"abcd", false}} {
		c := speak(t, 3, test.body)
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(c)
		if answers := strings.Count(string(all), " 200 OK\r\n"); (answers == 2 && err == nil) != test.whole || strings.Contains(string(all), "abcd") {
			t.Errorf("%q for 3 bytes: got %q, %v", test.body, all, err)
		}
	}
}

// Who speaks HTTP/1.0 would take an interim answer for the answer (RFC 9110 section 15.2).
func TestHTTP10ClientsGetNoInterimAnswers(t *testing.T) {
	for version, want := range map[string]string{"1.0": "HTTP/1.1 200 OK\r\n", "1.1": "HTTP/1.1 103 Early Hints\r\n"} {
		c := speak(t, 3, "abc")
		c.say("GET / HTTP/%s\r\nHost: a\r\n\r\n", version)
		if head := c.head(); !strings.HasPrefix(head, want) {
			t.Errorf("HTTP/%s: got %q", version, head)
		}
	}
}

// A server that says one thing after the other and never answers is given up.
func TestOnlySoManyInterimAnswersPass(t *testing.T) {
	for count, want := range map[int]string{maxInterim: "HTTP/1.1 200 ", maxInterim + 1: "HTTP/1.1 502 "} {
		c := newProxy(t, script(t, func(c *rawClient) {
			c.head()
			c.say("%sHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", count))
		}), ServerConfig{}).dial()
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.head()
		for strings.HasPrefix(head, "HTTP/1.1 103 ") {
			head = c.head()
		}
		if !strings.HasPrefix(head, want) {
			t.Errorf("after %d: got %q, want %q", count, head, want)
		}
	}
}

// The server would take what is missing of a request from the next one, or what is too much for one.
func TestRequestsThatAreNotAsLongAsTheySayAreNotCompleted(t *testing.T) {
	for body, status := range map[string]int{"abc": 200, "ab": 502, "": 502, "abcd": 502} {
		p := newProxy(t, newServer(t, func(_ http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); err == nil && string(got) != body {
				t.Errorf("of %q the server got %q", body, got)
			}
		}), ServerConfig{})
		p.handleBy(func(req *exchange.Request, client exchange.Client) exchange.Server {
			req.Length = 3
			return p.client().Handle(req, client)
		})
		req, err := http.NewRequest("POST", p.url("/"), io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		res, err := newHTTPClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%q for 3 bytes: status %d, want %d", body, res.StatusCode, status)
		}
	}
}

// Some servers wait for a body, or refuse the request, when a POST says nothing of its length (RFC 9110 section 8.6).
func TestAnEmptyBodyIsSaidWhereOneIsExpected(t *testing.T) {
	for method, want := range map[string]bool{"POST": true, "PUT": true, "PATCH": true, "GET": false, "DELETE": false} {
		heads := make(chan string, 1)
		c := newProxy(t, script(t, func(c *rawClient) {
			heads <- c.head()
			c.say("HTTP/1.1 204 No Content\r\n\r\n")
		}), ServerConfig{}).dial()
		c.say("%s / HTTP/1.1\r\nHost: a\r\n\r\n", method)
		c.head()
		if head := <-heads; strings.Contains(head, "content-length: 0\r\n") != want {
			t.Errorf("%s: the server saw %q", method, head)
		}
	}
}

// trailing is a request with trailers after a body of a known length, as HTTP/2 has them.
type trailing struct{ exchange.Server }

func (s trailing) End([]exchange.Field) { s.Server.End([]exchange.Field{{Name: "sum", Value: "42"}}) }

func TestTrailersAfterABodyOfKnownLengthPass(t *testing.T) {
	p := newProxy(t, newServer(t, mirror), ServerConfig{})
	p.handleBy(func(req *exchange.Request, client exchange.Client) exchange.Server {
		return trailing{p.client().Handle(req, client)}
	})
	c := p.dial()
	c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTrailer: Sum\r\n\r\nabc")
	res, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(res.Body); string(got) != "abc" || err != nil || res.Trailer.Get("Checked") != "yes 42" {
		t.Errorf("got %q, %v, trailers %v", got, err, res.Trailer)
	}
}
