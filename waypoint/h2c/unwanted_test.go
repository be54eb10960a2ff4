package h2c

import (
	"fmt"
	"io"
	"testing"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// What nobody wants of requests that are answered already, or has consumed by then, mustn't take the connection's window from the others.
func TestBodiesThatNobodyWantsLeaveTheWindowOpen(t *testing.T) {
	// In all more than a connection has for streams that are stalled, see h2.Reserve.
	const piece, pieces, streams = 16 << 10, 10, 100
	for name, handle := range map[string]exchange.Handler{
		"answered at once": func(_ *exchange.Request, client exchange.Client) exchange.Server { return &eager{client: client} },
		"answered at once, and at length": func(_ *exchange.Request, client exchange.Client) exchange.Server {
			return &lengthy{eager{client: client}}
		},
		"answered at the end":  func(_ *exchange.Request, client exchange.Client) exchange.Server { return &lazy{eager{client: client}} },
		"read, and then ended": answerBy(func(l *local) { (&eager{client: l.client}).Data(nil) }),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := framedClient(t, handle)
			room, answers := 65535, 0
			hear := func() {
				f, err := c.ReadFrame()
				c.must(err)
				switch f := f.(type) {
				case *http2.WindowUpdateFrame:
					if f.StreamID == 0 {
						room += int(f.Increment)
					}
				case *http2.MetaHeadersFrame:
					answers++
				}
			}
			for i := range streams {
				for room < pieces*piece {
					hear()
				}
				id := uint32(2*i + 1)
				c.head(id, false, get...)
				for n := range pieces {
					c.must(c.WriteData(id, n == pieces-1, make([]byte, piece)))
				}
				room -= pieces * piece
				for answers <= i {
					hear()
				}
			}
		})
	}
}

// lengthy answers with more than the client makes room for.
type lengthy struct{ eager }

func (l *lengthy) Data([]byte) {
	l.eager.client.Respond(&exchange.Response{Status: 200, Length: 1 << 17})
	l.eager.client.Data(make([]byte, 1<<17))
	l.eager.client.End(nil)
}

// lazy reads nothing, and answers in the end.
type lazy struct{ eager }

func (*lazy) Data([]byte)            {}
func (l *lazy) End([]exchange.Field) { l.eager.Data(nil) }

// An exchange whose answer has come is over, and nothing of its request is left on the connection.
func TestAnAnswerBeforeTheRequestIsCompleteEndsTheStream(t *testing.T) {
	s, p, c := framedServer(t)
	a := new(asker)
	p.on(func() {
		a.server = c.Handle(&exchange.Request{Method: "POST", Scheme: "http", Authority: "a", Path: "/", Length: exchange.UnknownLength}, a)
	})
	s.expect("HEADERS 1 :method=POST :scheme=http :path=/ :authority=a")
	s.head(1, true, ":status=413")
	s.expect("RST_STREAM 1 CANCEL")
	p.on(func() {
		if a.status != 413 || !a.ended || a.err != nil || c.Running() != 0 || c.core.Active() != 0 {
			t.Errorf("status %d, ended %v, %v; %d exchanges, %d streams", a.status, a.ended, a.err, c.Running(), c.core.Active())
		}
	})
}

// What filters put into heads that the peer would take for an attack isn't sent.
func TestFieldsWithLineBreaksAreNotSent(t *testing.T) {
	for _, value := range []string{"a\r\nx: y", "a\nb", "a\x00b"} {
		field := []exchange.Field{{Name: "x", Value: value}}
		heard := make(chan error, 1)
		c, _ := framedClient(t, func(_ *exchange.Request, client exchange.Client) exchange.Server {
			l := &local{client: client}
			l.answer = func(l *local) {
				l.client.Respond(&exchange.Response{Status: 200, Fields: field})
				heard <- l.err
			}
			return l
		})
		c.head(1, true, get...)
		c.expect("HEADERS 1 :status=502 end")
		if err := <-heard; err == nil {
			t.Errorf("%q: the server doesn't hear of it", value)
		}
		s, p, client := framedServer(t)
		a := new(asker)
		p.on(func() {
			a.server = client.Handle(&exchange.Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/", Fields: field}, a)
		})
		p.eventually(fmt.Sprintf("the request with %q to fail", value), func() bool { return a.err != nil })
		p.ask(client)
		s.expect("HEADERS 1 :method=GET :scheme=http :path=/ :authority=a end")
	}
}

// Of an interim answer nothing gets into the answer.
func TestFieldsOfInterimAnswersAreTheirsAlone(t *testing.T) {
	s, p, c := framedServer(t)
	a := &reader{}
	p.on(func() {
		a.server = c.Handle(&exchange.Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/"}, a)
	})
	s.hear()
	s.head(1, false, ":status=103", "link=b")
	s.head(1, true, ":status=200", "x=y")
	p.eventually("the answer", func() bool { return a.ended })
	p.on(func() {
		if got := fmt.Sprint(a.heads); got != "[103 [{link b}] 200 [{x y}]]" {
			t.Errorf("got %s", got)
		}
	})
}

// reader is an asker that keeps heads.
type reader struct {
	asker
	heads []any
}

func (r *reader) Inform(res *exchange.Response)  { r.note(res) }
func (r *reader) Respond(res *exchange.Response) { r.note(res) }

func (r *reader) note(res *exchange.Response) {
	r.heads = append(r.heads, res.Status, append([]exchange.Field(nil), res.Fields...))
}

// A message that isn't as long as it says is broken off for both sides, whoever has said it.
func TestWhatIsPassedOnIsAsLongAsItSays(t *testing.T) {
	for _, test := range []struct {
		name, body string
		whole      bool
	}{{"whole", "abc", true}, {"longer", "abcd", false}, {"shorter", "ab", false}, {"empty", "", false}} {
		t.Run("request, "+test.name, func(t *testing.T) {
			s, p, c := framedServer(t)
			a := new(asker)
			p.on(func() {
				a.server = c.Handle(&exchange.Request{Method: "POST", Scheme: "http", Authority: "a", Path: "/", Length: 3}, a)
				a.server.Data([]byte(test.body))
				a.server.End(nil)
			})
			line := ""
			for line = s.hear(); line != "DATA 1  end" && line != "DATA 1 abc end" && line != "RST_STREAM 1 CANCEL"; line = s.hear() {
			}
			p.on(func() {
				if (line != "RST_STREAM 1 CANCEL") != test.whole || (a.err == nil) != test.whole {
					t.Errorf("the server hears %s, the client %v", line, a.err)
				}
			})
		})
		t.Run("answer, "+test.name, func(t *testing.T) {
			heard := make(chan error, 1)
			c := unheld(t, func(_ *exchange.Request, client exchange.Client) exchange.Server {
				l := &local{client: client}
				l.answer = func(l *local) {
					l.client.Respond(&exchange.Response{Status: 200, Length: 3})
					l.client.Data([]byte(test.body))
					l.client.End(nil)
					heard <- l.err
				}
				return l
			})
			c.head(1, true, get...)
			line := ""
			for line = c.hear(); line != "DATA 1  end" && line != "RST_STREAM 1 INTERNAL_ERROR"; line = c.hear() {
			}
			if err := <-heard; (line == "DATA 1  end") != test.whole || (err == nil) != test.whole {
				t.Errorf("the client hears %s, the server %v", line, err)
			}
		})
	}
}

// unheld is a client by hand of a Server whose handler may break the rules.
func unheld(t *testing.T, handle exchange.Handler) *peer {
	t.Helper()
	p := newProxy(t, "h2", "h2", "")
	conn, fd := onloop.Socket(t)
	p.on(func() { Serve(p.over(fd), ServerConfig{Handle: handle}) })
	c := newPeer(t, conn)
	_, err := io.WriteString(conn, http2.ClientPreface)
	c.must(err)
	c.must(c.WriteSettings())
	return c
}

// Where there is no body there are no trailers either, and no bytes.
func TestAnswersThatHaveNoBodyEndWithTheirHead(t *testing.T) {
	for _, test := range []struct {
		method string
		status int
		want   string
	}{{"HEAD", 200, "HEADERS 1 :status=200 content-length=3 end"}, {"GET", 304, "HEADERS 1 :status=304 content-length=3 end"}, {"GET", 204, "HEADERS 1 :status=204 end"}} {
		c, _ := framedClient(t, answerBy(func(l *local) {
			l.client.Respond(&exchange.Response{Status: test.status, Length: 3})
			l.client.Data([]byte("abc"))
			l.client.End([]exchange.Field{{Name: "sum", Value: "42"}})
		}))
		c.head(1, true, ":method="+test.method, ":scheme=http", ":path=/", ":authority=a")
		c.expect(test.want)
		c.head(3, true, get...)
		if line := c.hear(); line[:9] != "HEADERS 3" {
			t.Errorf("%s, %d: and then %s", test.method, test.status, line)
		}
	}
}
