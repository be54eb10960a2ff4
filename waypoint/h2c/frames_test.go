package h2c

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// peer speaks HTTP/2 frame by frame, by x/net's Framer.
type peer struct {
	*http2.Framer
	tb      testing.TB
	conn    net.Conn
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newPeer(tb testing.TB, conn net.Conn) *peer {
	_ = conn.SetDeadline(time.Now().Add(onloop.Patience))
	p := &peer{Framer: http2.NewFramer(conn, conn), tb: tb, conn: conn}
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.AllowIllegalWrites = true
	p.encoder = hpack.NewEncoder(&p.block)
	return p
}

func (p *peer) must(err error) {
	p.tb.Helper()
	if err != nil {
		p.tb.Fatal(err)
	}
}

// head writes a HEADERS frame of name=value pairs.
func (p *peer) head(id uint32, end bool, pairs ...string) {
	p.tb.Helper()
	p.block.Reset()
	for _, pair := range pairs {
		i := strings.Index(pair[1:], "=") + 1
		p.must(p.encoder.WriteField(hpack.HeaderField{Name: pair[:i], Value: pair[i+1:]}))
	}
	p.must(p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block.Bytes(), EndStream: end, EndHeaders: true}))
}

// hear returns the next frame but settings, windows and pings, as a line; "end" at the end.
func (p *peer) hear() string {
	p.tb.Helper()
	for {
		f, err := p.ReadFrame()
		if errors.Is(err, io.EOF) {
			return "end"
		}
		p.must(err)
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			var pairs []string
			for _, field := range f.Fields {
				pairs = append(pairs, field.Name+"="+field.Value)
			}
			return fmt.Sprintf("HEADERS %d %s%s", f.StreamID, strings.Join(pairs, " "), ending(f.StreamEnded()))
		case *http2.DataFrame:
			return fmt.Sprintf("DATA %d %s%s", f.StreamID, f.Data(), ending(f.StreamEnded()))
		case *http2.RSTStreamFrame:
			return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode)
		case *http2.PingFrame:
			if !f.IsAck() {
				p.must(p.WritePing(true, f.Data))
			}
		}
	}
}

func ending(end bool) string {
	if end {
		return " end"
	}
	return ""
}

func (p *peer) expect(lines ...string) {
	p.tb.Helper()
	for _, want := range lines {
		if got := p.hear(); got != want {
			p.tb.Errorf("got %q, want %q", got, want)
		}
	}
}

// framedClient connects to a proxy that has local answer each request, by hand.
func framedClient(t *testing.T, local exchange.Handler) (*peer, *proxy) {
	t.Helper()
	p := newProxy(t, "h2", "h2", "")
	p.on(func() { p.handle = local })
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := newPeer(t, conn)
	_, err = io.WriteString(conn, http2.ClientPreface)
	c.must(err)
	c.must(c.WriteSettings())
	return c, p
}

// local answers by a function when the request is complete.
type local struct {
	req    *exchange.Request
	client exchange.Client
	body   int
	answer func(*local)
	err    error
}

func answerBy(answer func(*local)) exchange.Handler {
	return func(req *exchange.Request, client exchange.Client) exchange.Server {
		return &local{req: req, client: client, answer: answer}
	}
}

func (l *local) Data(p []byte)        { l.body += len(p); l.client.Consumed(len(p)) }
func (l *local) End([]exchange.Field) { l.answer(l) }
func (l *local) Abort(err error)      { l.err = err }
func (l *local) Consumed(int)         {}

var get = []string{":method=GET", ":scheme=http", ":path=/", ":authority=a"}

// An answer of gRPC that is an error has all in one HEADERS frame, which has to stay one.
func TestAnswersThatAreTrailersOnlyStaySo(t *testing.T) {
	c, _ := framedClient(t, answerBy(func(l *local) {
		l.client.Respond(&exchange.Response{Status: 200, Fields: []exchange.Field{{Name: "grpc-status", Value: "5"}}})
		l.client.End(nil)
	}))
	c.head(1, true, get...)
	c.expect("HEADERS 1 :status=200 grpc-status=5 end")
}

func TestTrailersFollowAllData(t *testing.T) {
	c, _ := framedClient(t, answerBy(func(l *local) {
		l.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
		l.client.Data([]byte("abc"))
		l.client.End([]exchange.Field{{Name: "grpc-status", Value: "0"}})
	}))
	c.head(1, true, get...)
	c.expect("HEADERS 1 :status=200", "DATA 1 abc", "HEADERS 1 grpc-status=0 end")
}

func TestAnswerBeforeTheRequestIsComplete(t *testing.T) {
	c, _ := framedClient(t, func(_ *exchange.Request, client exchange.Client) exchange.Server {
		return &eager{client: client}
	})
	c.head(1, false, get...)
	c.must(c.WriteData(1, false, []byte("x")))
	c.expect("HEADERS 1 :status=413 end", "RST_STREAM 1 NO_ERROR")
}

// eager answers the first byte.
type eager struct {
	local
	client exchange.Client
}

func (e *eager) Data([]byte) {
	e.client.Respond(&exchange.Response{Status: 413})
	e.client.End(nil)
}

// Every row is a request that HTTP/2's frames allow and that isn't handled, and the exact answer.
func TestMalformedRequests(t *testing.T) {
	with := func(more ...string) []string { return append(get[:len(get):len(get)], more...) }
	for _, test := range []struct {
		name   string
		fields []string
		end    bool
		want   string
	}{
		{"CONNECT", []string{":method=CONNECT", ":authority=a:1"}, false, "405"},
		{"path without a slash", []string{":method=GET", ":scheme=http", ":path=a", ":authority=a"}, true, "400"},
		{"path with a space", []string{":method=GET", ":scheme=http", ":path=/a b", ":authority=a"}, true, "400"},
		{"path with a fragment", []string{":method=GET", ":scheme=http", ":path=/a#b", ":authority=a"}, true, "400"},
		{"asterisk for GET", []string{":method=GET", ":scheme=http", ":path=*", ":authority=a"}, true, "400"},
		{"another scheme", []string{":method=GET", ":scheme=ftp", ":path=/", ":authority=a"}, true, "400"},
		{"authority with a user", []string{":method=GET", ":scheme=http", ":path=/", ":authority=u@a"}, true, "400"},
		{"host that differs", with("host=b"), true, "400"},
		{"two hosts", []string{":method=GET", ":scheme=http", ":path=/", "host=a", "host=b"}, true, "400"},
		{"length that is none", with("content-length=+1"), false, "400"},
		{"two lengths", with("content-length=1", "content-length=1"), false, "400"},
		{"a length after a length of 0", with("content-length=0", "content-length=1"), false, "400"},
		{"length and no body", with("content-length=1"), true, "400"},
		{"too many fields", with(strings.Split(strings.Repeat("x=y ", maxFields)+"z=z", " ")...), true, "400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, p := framedClient(t, func(*exchange.Request, exchange.Client) exchange.Server {
				t.Error("the request was handled")
				return new(local)
			})
			c.head(1, test.end, test.fields...)
			c.expect("HEADERS 1 :status=" + test.want + " content-length=0 end")
			if !test.end {
				c.expect("RST_STREAM 1 NO_ERROR")
			}
			p.on(func() {
				if len(p.refused) != 1 {
					t.Errorf("told of %v", p.refused)
				}
			})
		})
	}
}

func TestBodiesThatAreNotAsLongAsTheySay(t *testing.T) {
	for _, test := range []struct {
		name, data string
		end        bool
	}{{"longer", "abcd", false}, {"shorter", "ab", true}} {
		t.Run(test.name, func(t *testing.T) {
			var handled *local
			c, p := framedClient(t, func(req *exchange.Request, client exchange.Client) exchange.Server {
				handled = &local{req: req, client: client, answer: func(*local) { t.Error("the request was complete") }}
				return handled
			})
			c.head(1, false, append(get[:len(get):len(get)], "content-length=3")...)
			c.must(c.WriteData(1, test.end, []byte(test.data)))
			c.expect("RST_STREAM 1 PROTOCOL_ERROR")
			p.on(func() {
				if !errors.Is(handled.err, errLength) {
					t.Errorf("the server hears %v", handled.err)
				}
			})
		})
	}
}

func TestTrailersThatOnlyAHeadMayHave(t *testing.T) {
	for _, trailer := range []string{"host=b", "content-length=0", ":path=/"} {
		c, _ := framedClient(t, answerBy(func(*local) { t.Error("the request was complete") }))
		c.head(1, false, get...)
		c.head(1, true, trailer)
		c.expect("RST_STREAM 1 PROTOCOL_ERROR")
	}
}

func TestWhatRequestsBecome(t *testing.T) {
	for _, test := range []struct {
		name, want string
		fields     []string
	}{
		{"pieces of a cookie", "GET http a / [{x 1} {cookie a=1; b=2; c=3} {y 2}]",
			append(get[:len(get):len(get)], "x=1", "cookie=a=1", "cookie=b=2", "y=2", "cookie=c=3")},
		{"host for authority", "GET http b / []", []string{":method=GET", ":scheme=http", ":path=/", "host=b"}},
		{"equal host", "GET http a / []", append(get[:len(get):len(get)], "host=a")},
		{"white space around a value", "GET http a / [{x admin} {y }]", append(get[:len(get):len(get)], "x= admin\t", "y= ")},
		{"te", "GET http a / [{te trailers}]", append(get[:len(get):len(get)], "te=trailers")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan string, 1)
			c, _ := framedClient(t, answerBy(func(l *local) {
				got <- fmt.Sprint(l.req.Method, " ", l.req.Scheme, " ", l.req.Authority, " ", l.req.Path, " ", l.req.Fields)
			}))
			c.head(1, true, test.fields...)
			if got := <-got; got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A client that makes requests and resets them at once is cut off, whatever they cost behind us.
func TestRapidResetsEndTheConnection(t *testing.T) {
	aborted := 0
	c, p := framedClient(t, func(*exchange.Request, exchange.Client) exchange.Server { return resettable{&aborted} })
	go func() {
		for id := uint32(1); id < 4000; id += 2 {
			c.block.Reset()
			for _, pair := range get {
				name, value, _ := strings.Cut(pair[1:], "=")
				_ = c.encoder.WriteField(hpack.HeaderField{Name: ":" + name, Value: value})
			}
			if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
				c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	for line := ""; !strings.HasSuffix(line, "ENHANCE_YOUR_CALM"); {
		if line = c.hear(); line == "end" {
			t.Fatal("no GOAWAY")
		}
	}
	p.on(func() {
		if aborted < 900 || aborted > 1100 {
			t.Errorf("after %d requests", aborted)
		}
	})
}

type resettable struct{ aborted *int }

func (r resettable) Data([]byte)          {}
func (r resettable) End([]exchange.Field) {}
func (r resettable) Abort(error)          { *r.aborted++ }
func (r resettable) Consumed(int)         {}

func TestDrainLetsExchangesEnd(t *testing.T) {
	var held *local
	c, p := framedClient(t, answerBy(func(l *local) { held = l }))
	c.head(1, true, get...)
	p.eventually("the request", func() bool { return held != nil })
	p.on(func() { p.servers[0].Drain() })
	c.expect("GOAWAY 2147483647 NO_ERROR", "GOAWAY 1 NO_ERROR")
	p.on(func() {
		held.client.Respond(&exchange.Response{Status: 200})
		held.client.End(nil)
	})
	c.expect("HEADERS 1 :status=200 end", "end")
}

// framedServer is a server by hand, and a Client with it.
func framedServer(t *testing.T) (*peer, *proxy, *Client) {
	t.Helper()
	p := newProxy(t, "h2", "h2", "")
	conn, fd := onloop.Socket(t)
	s := newPeer(t, conn)
	var c *Client
	p.on(func() { c = NewClient(p.over(fd), ClientConfig{Room: func(*Client) {}, Gone: func(*Client) {}}) })
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Fatal(err)
	}
	s.must(s.WriteSettings())
	return s, p, c
}

// asker is a client that keeps what it hears.
type asker struct {
	server exchange.Server
	status int
	ended  bool
	err    error
}

func (a *asker) Inform(*exchange.Response)    {}
func (a *asker) Respond(r *exchange.Response) { a.status = r.Status }
func (a *asker) Data(p []byte)                { a.server.Consumed(len(p)) }
func (a *asker) End([]exchange.Field)         { a.ended = true }
func (a *asker) Abort(err error)              { a.err = err }
func (a *asker) Consumed(int)                 {}

func (p *proxy) ask(c *Client) *asker {
	a := new(asker)
	p.on(func() {
		a.server = c.Handle(&exchange.Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/"}, a)
		a.server.End(nil)
	})
	return a
}

// What the server surely hasn't processed is told apart from what it may have.
func TestWhatWasNotProcessedIsToldApart(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(*peer)
		want   [2]bool // of two requests, which surely weren't processed
	}{
		{"GOAWAY between them", func(s *peer) { s.must(s.WriteGoAway(1, http2.ErrCodeNo, nil)); _ = s.conn.Close() }, [2]bool{false, true}},
		{"REFUSED_STREAM for the first", func(s *peer) { s.must(s.WriteRSTStream(1, http2.ErrCodeRefusedStream)); _ = s.conn.Close() }, [2]bool{true, false}},
		{"end of the connection", func(s *peer) { _ = s.conn.Close() }, [2]bool{false, false}},
		{"CANCEL", func(s *peer) {
			s.must(s.WriteRSTStream(1, http2.ErrCodeCancel))
			s.must(s.WriteRSTStream(3, http2.ErrCodeCancel))
		}, [2]bool{false, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p, c := framedServer(t)
			first, second := p.ask(c), p.ask(c)
			s.expect("HEADERS 1 :method=GET :scheme=http :path=/ :authority=a end", "HEADERS 3 :method=GET :scheme=http :path=/ :authority=a end")
			test.server(s)
			p.eventually("both to end", func() bool { return first.err != nil && second.err != nil })
			p.on(func() {
				for i, a := range []*asker{first, second} {
					if got := errors.As(a.err, new(*exchange.NotProcessed)); got != test.want[i] {
						t.Errorf("request %d: %v", i+1, a.err)
					}
				}
			})
		})
	}
}

func TestClientKeepsToTheServersLimit(t *testing.T) {
	s, p, c := framedServer(t)
	s.must(s.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}))
	p.eventually("the limit", func() bool { return c.Room() == 1 })
	first, second := p.ask(c), p.ask(c)
	p.eventually("the second to fail", func() bool { return second.err != nil })
	p.on(func() {
		if !errors.As(second.err, new(*exchange.NotProcessed)) || c.Room() != 0 {
			t.Errorf("%v, room for %d", second.err, c.Room())
		}
	})
	s.hear()
	s.head(1, true, ":status=204")
	p.eventually("the first to end", func() bool { return first.ended && c.Room() == 1 })
}

// Answers that the frames allow and that are none.
func TestMalformedAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(*peer)
	}{
		{"status 101", func(s *peer) { s.head(1, false, ":status=101") }},
		{"two lengths", func(s *peer) { s.head(1, false, ":status=200", "content-length=1", "content-length=1") }},
		{"length and no body, ended", func(s *peer) { s.head(1, true, ":status=200", "content-length=1") }},
		{"longer than it says", func(s *peer) {
			s.head(1, false, ":status=200", "content-length=1")
			s.must(s.WriteData(1, false, []byte("ab")))
		}},
		{"body of 204, ended", func(s *peer) {
			s.head(1, false, ":status=204")
			s.must(s.WriteData(1, true, []byte("ab")))
		}},
		{"too many interim answers", func(s *peer) {
			for range maxInterim + 1 {
				s.head(1, false, ":status=103")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p, c := framedServer(t)
			a := p.ask(c)
			s.hear()
			test.server(s)
			if !strings.HasSuffix(test.name, "ended") { // then there is nothing to reset
				s.expect("RST_STREAM 1 PROTOCOL_ERROR")
			}
			p.eventually("the exchange to end", func() bool { return a.err != nil && !a.ended })
		})
	}
}
