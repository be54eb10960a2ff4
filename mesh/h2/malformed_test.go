package h2

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

func statusFields(status string) []hpack.HeaderField {
	return []hpack.HeaderField{field(":status", status)}
}

func longValue(n int) string { return strings.Repeat("x", n) }

func raw(kind http2.FrameType, flags http2.Flags, stream uint32, payload ...byte) func(*harness) {
	return func(h *harness) { h.must(h.framer.WriteRawFrame(kind, flags, stream, payload)) }
}

// Every row is a peer that breaks one rule, after stream 1 was opened (and answered, where we are the client), and the exact
// answer.
func TestMalformedPeers(t *testing.T) {
	request := func(id uint32, pairs ...string) func(*harness) {
		return func(h *harness) { h.headers(id, false, pairs...) }
	}
	tests := []struct {
		name string
		role Role
		peer func(*harness)
		want string
	}{
		{"frame longer than announced", Server, raw(0x0, 0, 1, make([]byte, 1<<20+1)...), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"DATA on stream 0", Server, raw(0x0, 0, 0, 1), "GOAWAY 1 PROTOCOL_ERROR"},
		{"DATA on an idle stream", Server, raw(0x0, 0, 7, 1), "GOAWAY 1 PROTOCOL_ERROR"},
		{"DATA on a stream of ours that is idle", Client, raw(0x0, 0, 7, 1), "GOAWAY 0 PROTOCOL_ERROR"},
		{"DATA with more padding than payload", Server, raw(0x0, flagPadded, 1, 3, 0, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"DATA padded without a pad length", Server, raw(0x0, flagPadded, 1), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"HEADERS on stream 0", Server, request(0, ":method", "CONNECT", ":authority", "a:1"), "GOAWAY 1 PROTOCOL_ERROR"},
		{"HEADERS on an even stream", Server, request(2, ":method", "CONNECT", ":authority", "a:1"), "GOAWAY 1 PROTOCOL_ERROR"},
		{"HEADERS on a stream that we did not open", Client, request(9, ":status", "200"), "GOAWAY 0 PROTOCOL_ERROR"},
		{"HEADERS with more padding than payload", Server, raw(0x1, flagPadded|flagEndHeaders, 3, 9, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"HEADERS shorter than its priority", Server, raw(0x1, flagPriority|flagEndHeaders, 3, 0, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"header block that is no HPACK", Server, raw(0x1, flagEndHeaders, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "GOAWAY 1 COMPRESSION_ERROR"},
		{"header block that is cut", Server, raw(0x1, flagEndHeaders, 3, 0x40, 0x7f), "GOAWAY 1 COMPRESSION_ERROR"},
		{"header block interrupted by DATA", Server, func(h *harness) {
			raw(0x1, 0, 3, 0x82)(h)
			raw(0x0, 0, 1, 1)(h)
		}, "GOAWAY 1 PROTOCOL_ERROR"},
		{"header block continued on another stream", Server, func(h *harness) {
			raw(0x1, 0, 3, 0x82)(h)
			raw(0x9, flagEndHeaders, 5)(h)
		}, "GOAWAY 1 PROTOCOL_ERROR"},
		{"CONTINUATION without HEADERS", Server, raw(0x9, flagEndHeaders, 1), "GOAWAY 1 PROTOCOL_ERROR"},
		{"header block longer than announced", Server, raw(0x1, flagEndHeaders, 3, make([]byte, 70000)...), "GOAWAY 1 ENHANCE_YOUR_CALM"},
		{"header list longer than announced", Server, func(h *harness) {
			pairs := []string{":method", "CONNECT", ":authority", "a:1"}
			for range 40 { // one entry of the table, forty times
				pairs = append(pairs, "x", longValue(2000))
			}
			h.headers(3, false, pairs...)
		}, "RST_STREAM 3 ENHANCE_YOUR_CALM"},
		{"PRIORITY on stream 0", Server, raw(0x2, 0, 0, 0, 0, 0, 0, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"PRIORITY of a wrong length", Server, raw(0x2, 0, 1, 0, 0), "RST_STREAM 1 FRAME_SIZE_ERROR"},
		{"RST_STREAM on stream 0", Server, raw(0x3, 0, 0, 0, 0, 0, 8), "GOAWAY 1 PROTOCOL_ERROR"},
		{"RST_STREAM on an idle stream", Server, raw(0x3, 0, 3, 0, 0, 0, 8), "GOAWAY 1 PROTOCOL_ERROR"},
		{"RST_STREAM of a wrong length", Server, raw(0x3, 0, 1, 0), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"SETTINGS on a stream", Server, raw(0x4, 0, 1), "GOAWAY 1 PROTOCOL_ERROR"},
		{"SETTINGS of a wrong length", Server, raw(0x4, 0, 0, 0, 0, 0), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"SETTINGS acknowledgement with a payload", Server, raw(0x4, flagAck, 0, 0, 1, 0, 0, 0, 0), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"SETTINGS with too many entries", Server, raw(0x4, 0, 0, make([]byte, 6*65)...), "GOAWAY 1 ENHANCE_YOUR_CALM"},
		{"ENABLE_PUSH of 2", Server, raw(0x4, 0, 0, 0, 2, 0, 0, 0, 2), "GOAWAY 1 PROTOCOL_ERROR"},
		{"ENABLE_PUSH by a server", Client, raw(0x4, 0, 0, 0, 2, 0, 0, 0, 1), "GOAWAY 0 PROTOCOL_ERROR"},
		{"INITIAL_WINDOW_SIZE of 2^31", Server, raw(0x4, 0, 0, 0, 4, 0x80, 0, 0, 0), "GOAWAY 1 FLOW_CONTROL_ERROR"},
		{"MAX_FRAME_SIZE of 16383", Server, raw(0x4, 0, 0, 0, 5, 0, 0, 0x3f, 0xff), "GOAWAY 1 PROTOCOL_ERROR"},
		{"MAX_FRAME_SIZE of 2^24", Server, raw(0x4, 0, 0, 0, 5, 1, 0, 0, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"PUSH_PROMISE", Client, raw(0x5, flagEndHeaders, 1, 0, 0, 0, 2, 0x82), "GOAWAY 0 PROTOCOL_ERROR"},
		{"PING on a stream", Server, raw(0x6, 0, 1, make([]byte, 8)...), "GOAWAY 1 PROTOCOL_ERROR"},
		{"PING of a wrong length", Server, raw(0x6, 0, 0, make([]byte, 7)...), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"GOAWAY on a stream", Server, raw(0x7, 0, 1, make([]byte, 8)...), "GOAWAY 1 PROTOCOL_ERROR"},
		{"GOAWAY of a wrong length", Server, raw(0x7, 0, 0, make([]byte, 7)...), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE of a wrong length", Server, raw(0x8, 0, 1, 0, 0, 1), "GOAWAY 1 FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE on an idle stream", Server, raw(0x8, 0, 3, 0, 0, 0, 1), "GOAWAY 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 for the connection", Server, raw(0x8, 0, 0, 0, 0, 0, 0), "GOAWAY 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 for a stream", Server, raw(0x8, 0, 1, 0, 0, 0, 0), "RST_STREAM 1 PROTOCOL_ERROR"},
		{"connection window beyond 2^31-1", Server, raw(0x8, 0, 0, 0x7f, 0xff, 0xff, 0xff), "GOAWAY 1 FLOW_CONTROL_ERROR"},
		{"stream window beyond 2^31-1", Server, raw(0x8, 0, 1, 0x7f, 0xff, 0xff, 0xff), "RST_STREAM 1 FLOW_CONTROL_ERROR"},
		{"windows pushed beyond 2^31-1 by SETTINGS", Server, func(h *harness) {
			raw(0x8, 0, 1, 0x40, 0, 0, 0)(h)
			raw(0x4, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff)(h)
		}, "GOAWAY 1 FLOW_CONTROL_ERROR"},
		{"HEADERS on a stream that has ended", Server, func(h *harness) {
			raw(0x0, flagEndStream, 1)(h)
			h.connect(1)
		}, "GOAWAY 1 STREAM_CLOSED"},
		{"HEADERS on a stream lower than the last", Server, func(h *harness) {
			h.connect(5)
			h.connect(3)
		}, "GOAWAY 5 STREAM_CLOSED"},
		{"second HEADERS that end nothing", Server, request(1, "x", "y"), "RST_STREAM 1 PROTOCOL_ERROR"},
		{"trailers with a pseudo field", Server, func(h *harness) { h.headers(1, true, ":path", "/") }, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"DATA before the response", Client, func(h *harness) {
			_, err := h.conn.Open(connectFields, false)
			h.must(err)
			raw(0x0, 0, 3, 1)(h)
		}, "RST_STREAM 3 PROTOCOL_ERROR"},
		{"interim response that ends the stream", Client, func(h *harness) {
			_, err := h.conn.Open(connectFields, false)
			h.must(err)
			h.headers(3, true, ":status", "100")
		}, "RST_STREAM 3 PROTOCOL_ERROR"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t, Config{Role: test.role})
			if test.role == Server {
				h.connect(1)
				h.receive()
			} else {
				h.open()
			}
			test.peer(h)
			h.receive()
			got := h.sent()
			var answers []string
			for _, line := range got {
				if strings.HasPrefix(line, "GOAWAY") || strings.HasPrefix(line, "RST_STREAM") {
					answers = append(answers, line)
				}
			}
			expect(t, "sent", answers, test.want)
			if failed := h.conn.Err() != nil; failed != strings.HasPrefix(test.want, "GOAWAY") {
				t.Errorf("Err() = %v after %s", h.conn.Err(), test.want)
			}
		})
	}
}

func TestMalformedBeginnings(t *testing.T) {
	settings := func(h *harness) { h.must(h.framer.WriteSettings()) }
	for _, test := range []struct {
		name string
		role Role
		peer func(*harness)
	}{
		{"HTTP/1.1 client", Server, func(h *harness) { h.in.WriteString("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }},
		{"preface that differs late", Server, func(h *harness) { h.in.WriteString(preface[:23] + "x") }},
		{"no preface", Server, settings},
		{"PING before SETTINGS", Client, func(h *harness) { h.must(h.framer.WritePing(false, [8]byte{})) }},
		{"acknowledgement before SETTINGS", Client, func(h *harness) { h.must(h.framer.WriteSettingsAck()) }},
		{"DATA before SETTINGS", Server, func(h *harness) {
			h.in.WriteString(preface)
			raw(0x0, 0, 1, 1)(h)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newBareHarness(t, Config{Role: test.role})
			h.sent()
			test.peer(h)
			h.receive()
			expect(t, "sent", h.sent(), "GOAWAY 0 PROTOCOL_ERROR")
		})
	}
}

func TestHeaderRules(t *testing.T) {
	connect := []string{":method", "CONNECT", ":authority", "a:1"}
	get := []string{":method", "GET", ":scheme", "http", ":path", "/"}
	with := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }
	for _, test := range []struct {
		name  string
		pairs []string
		ok    bool
	}{
		{"CONNECT", connect, true},
		{"CONNECT with fields", with(connect, "baggage", "a=b", "te", "trailers"), true},
		{"CONNECT without authority", []string{":method", "CONNECT"}, false},
		{"CONNECT with a scheme", with(connect, ":scheme", "http"), false},
		{"CONNECT with a path", with(connect, ":path", "/"), false},
		{"CONNECT with a protocol", with(connect, ":protocol", "websocket"), false},
		{"GET", get, true},
		{"GET without a scheme", []string{":method", "GET", ":path", "/"}, false},
		{"GET without a path", []string{":method", "GET", ":scheme", "http"}, false},
		{"GET with an empty path", []string{":method", "GET", ":scheme", "http", ":path", ""}, false},
		{"two methods", with(connect, ":method", "GET"), false},
		{"two authorities", with(connect, ":authority", "b:1"), false},
		{"no method", []string{":authority", "a:1"}, false},
		{"method that is no token", []string{":method", "CON NECT", ":authority", "a:1"}, false},
		{"response field", with(connect, ":status", "200"), false},
		{"pseudo field after a field", []string{":method", "CONNECT", "x", "y", ":authority", "a:1"}, false},
		{"upper case", with(connect, "Baggage", "a"), false},
		{"name with a space", with(connect, "a b", "a"), false},
		{"empty name", with(connect, "", "a"), false},
		{"line break in a value", with(connect, "a", "b\r\nc: d"), false},
		{"NUL in a value", with(connect, "a", "b\x00"), false},
		{"line break in the authority", []string{":method", "CONNECT", ":authority", "a:1\n"}, false},
		{"connection", with(connect, "connection", "close"), false},
		{"transfer-encoding", with(connect, "transfer-encoding", "chunked"), false},
		{"te", with(connect, "te", "gzip"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t, Config{Role: Server})
			h.headers(1, false, test.pairs...)
			events := h.receive()
			if ok := len(events) == 1; ok != test.ok {
				t.Errorf("events %q, want accepted: %v", events, test.ok)
			}
			if !test.ok {
				expect(t, "sent", h.sent(), "RST_STREAM 1 PROTOCOL_ERROR")
			}
		})
	}
}

func TestResponseRules(t *testing.T) {
	for _, test := range []struct {
		pairs []string
		ok    bool
	}{
		{[]string{":status", "200"}, true},
		{[]string{":status", "503", "baggage", "x"}, true},
		{[]string{}, false},
		{[]string{"baggage", "x"}, false},
		{[]string{":status", "20"}, false},
		{[]string{":status", "2000"}, false},
		{[]string{":status", "2x0"}, false},
		{[]string{":status", "200", ":status", "200"}, false},
		{[]string{":status", "200", ":path", "/"}, false},
		{[]string{":status", "200", "upgrade", "h3"}, false},
	} {
		h := newHarness(t, Config{Role: Client})
		_, err := h.conn.Open(connectFields, false)
		h.must(err)
		h.sent()
		h.headers(1, false, test.pairs...)
		h.receive()
		if got := h.sent(); (len(got) == 0) != test.ok {
			t.Errorf("%q: sent %q, want accepted: %v", test.pairs, got, test.ok)
		}
	}
}

// What costs us work for nothing ends the connection; what a long life brings does not, as Tick renews the budget.
func TestFloods(t *testing.T) {
	next := uint32(1)
	open := func(h *harness) uint32 {
		next += 2
		h.connect(next)
		return next
	}
	for _, test := range []struct {
		name string
		peer func(*harness)
	}{
		{"PING", raw(0x6, 0, 0, make([]byte, 8)...)},
		{"PING answers", raw(0x6, flagAck, 0, make([]byte, 8)...)},
		{"SETTINGS", raw(0x4, 0, 0)},
		{"SETTINGS acknowledgements", raw(0x4, flagAck, 0)},
		{"GOAWAY", raw(0x7, 0, 0, make([]byte, 8)...)},
		{"empty DATA", raw(0x0, 0, 1)},
		{"DATA of padding", raw(0x0, flagPadded, 1, 0)},
		{"unknown frames", raw(0xbe, 0, 1, 1)},
		{"WINDOW_UPDATE of the connection", raw(0x8, 0, 0, 0, 0, 0, 1)},
		{"WINDOW_UPDATE of a stream", raw(0x8, 0, 1, 0, 0, 0, 1)},
		{"PRIORITY", raw(0x2, 0, 1, 0, 0, 0, 0, 1)},
		{"rapid reset", func(h *harness) { raw(0x3, 0, open(h), 0, 0, 0, 8)(h) }},
		{"streams that we have to reset", func(h *harness) { raw(0x8, 0, open(h), 0, 0, 0, 0)(h) }},
		{"streams beyond the limit", func(h *harness) { open(h) }},
		{"HEADERS on a stream that we reset", func(h *harness) {
			h.conn.Reset(1, Cancel)
			h.headers(1, true, "trailer", "x")
		}},
		{"requests that are answered with a refusal", func(h *harness) {
			next += 2
			h.headers(next, true, ":method", "GET", ":scheme", "https", ":path", "/")
			h.receive()
			h.conn.Refuse(next, statusFields("400"), ProtocolError)
		}},
		{"requests that are reset", func(h *harness) {
			id := open(h)
			h.receive()
			h.conn.Refuse(id, nil, RefusedStream)
		}},
	} {
		flood := func(n int, after func(*harness)) *harness {
			h := newHarness(t, Config{Role: Server, MaxStreams: 10})
			next = 1
			h.connect(1)
			for range n {
				test.peer(h)
				h.receive()
				h.sent()
				after(h)
			}
			return h
		}
		t.Run(test.name, func(t *testing.T) {
			if h := flood(30_000, func(*harness) {}); h.conn.Err() == nil || h.conn.err.Code != EnhanceYourCalm {
				t.Errorf("Err() = %v, want ENHANCE_YOUR_CALM", h.conn.Err())
			}
			if h := flood(30_000, func(h *harness) { h.conn.Tick() }); h.conn.Err() != nil {
				t.Errorf("spread over a long time: %v", h.conn.Err())
			}
		})
	}
}

// Who gets much makes room often, also in small steps.
func TestRoomForWhatIsSentIsNoFlood(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.connect(1)
	for range 30_000 {
		h.conn.AppendData(nil, 1, 8, false)
		for range 4 {
			raw(0x8, 0, 0, 0, 0, 0, 2)(h)
			raw(0x8, 0, 1, 0, 0, 0, 2)(h)
		}
		h.receive()
		h.sent()
	}
	if err := h.conn.Err(); err != nil {
		t.Fatal(err)
	}
	h.conn.Tick()
	for range 30_000 {
		raw(0x8, 0, 0, 0, 0, 0, 1)(h)
		h.receive()
	}
	if err := h.conn.Err(); err == nil {
		t.Error("what was never needed may be used for a flood")
	}
}

// A server may say that it is at it, but not for ever.
func TestFloodOfInterimAnswers(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	id, err := h.conn.Open(connectFields, false)
	h.must(err)
	for n := range 30_000 {
		h.headers(id, false, ":status", "100")
		h.receive()
		if h.conn.Err() != nil {
			if n < 100 || h.conn.err.Code != EnhanceYourCalm || h.conn.err.Reason != "too many interim answers" {
				t.Errorf("after %d: %v", n, h.conn.Err())
			}
			return
		}
	}
	t.Error("the flood never ends")
}

func TestContinuationFlood(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	raw(0x1, 0, 1, 0x82)(h)
	for range 40 {
		raw(0x9, 0, 1, 0x82)(h)
	}
	h.receive()
	expect(t, "sent", h.sent(), "GOAWAY 0 ENHANCE_YOUR_CALM")
}

// Requests make answers as well, also those that nobody would call a fault.
func TestResponsesThatNobodyReads(t *testing.T) {
	for name, answer := range map[string]func(*Conn, uint32){
		"refusals by a policy": func(c *Conn, id uint32) { _ = c.Headers(id, statusFields("401"), true) },
		"refusals by fault":    func(c *Conn, id uint32) { c.Refuse(id, statusFields("400"), ProtocolError) },
		"resets":               func(c *Conn, id uint32) { c.Refuse(id, nil, RefusedStream) },
	} {
		h := newHarness(t, Config{Role: Server})
		for id := uint32(1); id < 100_000 && h.conn.Err() == nil; id += 2 {
			h.conn.Tick()
			h.headers(id, true, ":method", "CONNECT", ":authority", "a:1")
			h.receive()
			answer(h.conn, id)
		}
		if h.conn.Err() == nil || len(h.conn.control) > 32<<10 {
			t.Errorf("%s: Err() = %v with %d bytes of answers", name, h.conn.Err(), len(h.conn.control))
		}
	}
}

// A peer that doesn't read can't make us keep answers without bound.
func TestAnswersThatNobodyReads(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.must(h.framer.WritePing(false, [8]byte{}))
	ping := bytes.Clone(h.in.Bytes())
	h.in.Reset()
	for range 5000 {
		h.conn.Tick()
		if _, _, err := h.conn.Receive(ping); err != nil {
			break
		}
	}
	if h.conn.Err() == nil || len(h.conn.control) > 32<<10 {
		t.Errorf("Err() = %v with %d bytes of answers", h.conn.Err(), len(h.conn.control))
	}
}
