package h2c

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

var webSocketHead = []string{":method=CONNECT", ":protocol=websocket", ":scheme=http", ":path=/chat", ":authority=a", "sec-websocket-version=13"}

// connect sends a head on stream 1.
func (c *clockwork) connect(end bool, pairs ...string) {
	c.T.Helper()
	p := &peer{Framer: c.Framer, tb: c.T}
	p.encoder = hpack.NewEncoder(&p.block)
	p.head(1, end, pairs...)
	c.send()
}

// heard are the frames that have come, as peer.hear has them.
func (c *clockwork) heard() (frames []string) {
	c.T.Helper()
	p := &peer{Framer: http2.NewFramer(io.Discard, strings.NewReader(c.Hear())), tb: c.T}
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame := p.hear()
		if frame == "end" {
			return frames
		}
		frames = append(frames, frame)
	}
}

// RFC 8441: what HTTP/1.1 calls an upgrade is a CONNECT with a protocol, and its 101 is 200.
func TestExtendedConnectIsAnUpgrade(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.greet()
		c.connect(false, webSocketHead...)
		c.Pass(time.Millisecond)
		req := c.last.req
		if key, _ := exchange.Get(req.Fields, webSocketKey); req.Method != "GET" || req.Upgrade != webSocket || req.Path != "/chat" || len(key) != 24 {
			t.Errorf("%s %s, to become %q, by key %q", req.Method, req.Path, req.Upgrade, key)
		}
		c.last.client.Respond(&exchange.Response{Status: 101, Upgrade: webSocket, Fields: []exchange.Field{{Name: webSocketAccept, Value: "x"}}})
		c.last.client.Data([]byte("from the server"))
		_ = c.WriteData(1, false, []byte("from the client"))
		c.send()
		c.Pass(time.Millisecond)
		if got, want := c.heard(), []string{"HEADERS 1 :status=200", "DATA 1 from the server"}; !slices.Equal(got, want) {
			t.Errorf("the client hears %q, want %q", got, want)
		}
		if c.last.body != len("from the client") || c.last.err != nil {
			t.Errorf("the server has %d bytes, %v", c.last.body, c.last.err)
		}
	})
}

func TestExtendedConnectsThatComeToNothing(t *testing.T) {
	answer := func(status int) func(*clockwork) {
		return func(c *clockwork) {
			c.last.client.Respond(&exchange.Response{Status: status, Length: 0})
			if c.last.err == nil {
				c.last.client.End(nil)
			}
		}
	}
	for name, test := range map[string]struct {
		head []string
		end  bool
		then func(*clockwork)
		want string // the first frame
		err  error  // that the server hears
	}{
		"refused by the server":       {webSocketHead, false, answer(403), "HEADERS 1 :status=403 end", nil},
		"answered by HTTP":            {webSocketHead, false, answer(200), "HEADERS 1 :status=502 end", errNoUpgrade},
		"data before it is agreed":    {webSocketHead, false, func(c *clockwork) { _ = c.WriteData(1, false, []byte("x")); c.send() }, "RST_STREAM 1 PROTOCOL_ERROR", errEarly},
		"the end before it is agreed": {webSocketHead, false, func(c *clockwork) { _ = c.WriteData(1, true, nil); c.send() }, "RST_STREAM 1 PROTOCOL_ERROR", errEarly},
		"ended at once":               {webSocketHead, true, nil, "HEADERS 1 :status=400 content-length=0 end", nil},
		"to become HTTP again":        {[]string{":method=CONNECT", ":protocol=H2C", ":scheme=http", ":path=/", ":authority=a"}, false, nil, "HEADERS 1 :status=400 content-length=0 end", nil},
		"with a length":               {append(slices.Clone(webSocketHead), "content-length=0"), false, nil, "HEADERS 1 :status=400 content-length=0 end", nil},
		"without a path":              {slices.Delete(slices.Clone(webSocketHead), 3, 4), false, nil, "RST_STREAM 1 PROTOCOL_ERROR", nil},
		"a protocol that is no token": {[]string{":method=CONNECT", ":protocol=a b", ":scheme=http", ":path=/", ":authority=a"}, false, nil, "RST_STREAM 1 PROTOCOL_ERROR", nil},
		"a protocol for GET":          {[]string{":method=GET", ":protocol=websocket", ":scheme=http", ":path=/", ":authority=a"}, false, nil, "RST_STREAM 1 PROTOCOL_ERROR", nil},
	} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(c *clockwork) {
				c.serve()
				c.greet()
				c.connect(test.end, test.head...)
				c.Pass(time.Millisecond)
				if (c.last != nil) != (test.then != nil) {
					t.Fatalf("reaches a server: %t", c.last != nil)
				}
				if test.then != nil {
					test.then(c)
				}
				c.Pass(time.Millisecond)
				if got := c.heard(); len(got) == 0 || got[0] != test.want {
					t.Errorf("the client hears %q, want %q", got, test.want)
				}
				if c.last != nil && !errors.Is(c.last.err, test.err) {
					t.Errorf("the server hears %v, want %v", c.last.err, test.err)
				}
			})
		})
	}
}

// A server says in its settings that it takes them; who doesn't ask for HTTP/2's core to do so, doesn't say it.
func TestExtendedConnectIsOffered(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.Pass(time.Millisecond)
		if said := []byte(c.Hear()); !bytes.Contains(said, []byte{0, 8, 0, 0, 0, 1}) {
			t.Errorf("settings %x", said)
		}
		c.greet()
	})
}
