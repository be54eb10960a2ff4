package h2

import (
	"errors"
	"testing"

	"golang.org/x/net/http2"
)

func TestPrefaceAnnouncesTheLimits(t *testing.T) {
	h := newBareHarness(t, Config{Role: Client})
	expect(t, "client sends", h.sent(),
		"SETTINGS [INITIAL_WINDOW_SIZE = 4194304] [MAX_FRAME_SIZE = 1048576] [MAX_HEADER_LIST_SIZE = 16384] [ENABLE_PUSH = 0]",
		"WINDOW_UPDATE 0 +16711681")
	h = newBareHarness(t, Config{Role: Server})
	expect(t, "server sends", h.sent(),
		"SETTINGS [INITIAL_WINDOW_SIZE = 4194304] [MAX_FRAME_SIZE = 1048576] [MAX_HEADER_LIST_SIZE = 65536] [MAX_CONCURRENT_STREAMS = 200]",
		"WINDOW_UPDATE 0 +16711681")
}

func TestServerStream(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.connect(1)
	expect(t, "events", h.receive(), "headers 1 :method=CONNECT :authority=a:1")
	h.must(h.conn.Headers(1, statusFields("200"), false))
	h.send(1, 10)
	expect(t, "sent", h.sent(), "HEADERS 1 :status=200", "DATA 1 len=10")
	h.must(h.framer.WriteData(1, true, []byte("hello")))
	expect(t, "events", h.receive(), `data 1 "hello" end`)
	h.conn.Finish(1)
	expect(t, "sent", h.sent(), "DATA 1 len=0 end")
	if h.conn.Active() != 0 {
		t.Errorf("Active() = %d after both ends", h.conn.Active())
	}
	h.conn.Consumed(1, 5)
	if len(h.conn.streams) != 0 || h.conn.recv.unread != 0 {
		t.Errorf("%d streams and %d bytes are kept after all was read", len(h.conn.streams), h.conn.recv.unread)
	}
}

func TestClientStream(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	id, err := h.conn.Open(connectFields, false)
	h.must(err)
	expect(t, "sent", h.sent(), "HEADERS 1 :method=CONNECT :authority=a:1")
	h.headers(id, false, ":status", "103")
	h.headers(id, false, ":status", "200", "baggage", "a=b")
	h.must(h.framer.WriteDataPadded(id, false, []byte("padded"), make([]byte, 200)))
	h.must(h.framer.WriteDataPadded(id, false, nil, make([]byte, 3)))
	h.must(h.framer.WriteDataPadded(id, true, nil, make([]byte, 3)))
	expect(t, "events", h.receive(), "headers 1 :status=103", "headers 1 :status=200 baggage=a=b", `data 1 "padded"`, `data 1 "" end`)
	h.conn.Reset(id, Cancel)
	expect(t, "sent", h.sent(), "RST_STREAM 1 CANCEL")
}

// The same bytes mean the same whatever pieces they come in.
func TestPiecesDoNotMatter(t *testing.T) {
	h := newBareHarness(t, Config{Role: Server})
	h.in.WriteString(preface)
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15}))
	block := h.encode(":method", "CONNECT", ":authority", "a:1", "baggage", "service.name=x")
	h.must(h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block[:5], PadLength: 7, Priority: http2.PriorityParam{Weight: 3},
	}))
	h.must(h.framer.WriteContinuation(1, false, block[5:9]))
	h.must(h.framer.WriteContinuation(1, true, block[9:]))
	h.must(h.framer.WriteDataPadded(1, false, []byte("x"), make([]byte, 9)))
	h.must(h.framer.WriteRawFrame(0xbe, 1, 1, []byte("unknown")))
	h.must(h.framer.WritePriority(1, http2.PriorityParam{Weight: 1}))
	h.must(h.framer.WritePing(false, [8]byte{1}))
	h.must(h.framer.WriteWindowUpdate(1, 5))
	h.must(h.framer.WriteData(1, true, []byte("y")))
	h.must(h.framer.WriteGoAway(0, http2.ErrCodeNo, []byte("bye")))
	input := h.in.Bytes()
	for piece := range 40 {
		conn := New(Config{Role: Server})
		events, err := feed(conn, input, piece+1)
		if err != nil {
			t.Fatalf("in pieces of %d: %v", piece+1, err)
		}
		expect(t, "events", events, "settings", "headers 1 :method=CONNECT :authority=a:1 baggage=service.name=x",
			`data 1 "x"`, `data 1 "y" end`, "goaway 0 NO_ERROR")
	}
}

func TestPeerLimitOfStreams(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	if h.conn.Limit() != 100 {
		t.Errorf("Limit() = %d before the peer said anything about it, want 100", h.conn.Limit())
	}
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2}))
	h.receive()
	for range 2 {
		_, err := h.conn.Open(connectFields, false)
		h.must(err)
	}
	if _, err := h.conn.Open(connectFields, false); !errors.Is(err, ErrMaxStreams) {
		t.Errorf("third Open = %v, want %v", err, ErrMaxStreams)
	}
	h.conn.Reset(1, Cancel)
	if id, err := h.conn.Open(connectFields, false); err != nil || id != 5 {
		t.Errorf("Open after a reset = %d, %v, want 5", id, err)
	}
}

func TestOurLimitOfStreams(t *testing.T) {
	h := newHarness(t, Config{Role: Server, MaxStreams: 2})
	for _, id := range []uint32{1, 3, 5} {
		h.connect(id)
	}
	h.must(h.framer.WriteData(5, false, []byte("early")))
	expect(t, "events", h.receive(), "headers 1 :method=CONNECT :authority=a:1", "headers 3 :method=CONNECT :authority=a:1")
	expect(t, "sent", h.sent(), "RST_STREAM 5 REFUSED_STREAM")
	h.must(h.framer.WriteRSTStream(1, http2.ErrCodeCancel))
	h.connect(7)
	expect(t, "events", h.receive(), "reset 1 CANCEL by peer", "headers 7 :method=CONNECT :authority=a:1")
}

func TestPeersHeaderListLimit(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 40}))
	h.receive()
	if _, err := h.conn.Open(connectFields, false); !errors.Is(err, ErrHeaderLimit) {
		t.Errorf("Open = %v, want %v", err, ErrHeaderLimit)
	}
}

func TestLongHeadersAreContinued(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	fields := append(connectFields[:2:2], field("baggage", string(make([]byte, 40000))))
	fields[2].Value = longValue(40000)
	_, err := h.conn.Open(fields, true)
	h.must(err)
	expect(t, "sent", h.sent(), "HEADERS 1 :method=CONNECT :authority=a:1 baggage="+longValue(40000)+" end")
}

func TestGracefulShutdownLosesNoStream(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.connect(1)
	h.receive()
	h.conn.Shutdown()
	expect(t, "sent", h.sent(), "GOAWAY 2147483647 NO_ERROR", "PING f4756c6c65474f41")
	h.connect(3) // was under way
	h.must(h.framer.WritePing(true, [8]byte{0xf4, 'u', 'l', 'l', 'e', 'G', 'O', 'A'}))
	expect(t, "events", h.receive(), "headers 3 :method=CONNECT :authority=a:1")
	expect(t, "sent", h.sent(), "GOAWAY 3 NO_ERROR")
	h.connect(5) // knew better
	h.must(h.framer.WriteData(5, false, []byte("x")))
	h.must(h.framer.WriteData(1, false, []byte("goes on")))
	expect(t, "events", h.receive(), `data 1 "goes on"`)
	expect(t, "sent", h.sent())
}

func TestPeersGoAway(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	first, second := h.open(), h.open()
	h.must(h.framer.WriteGoAway(first, http2.ErrCodeNo, nil))
	expect(t, "events", h.receive(), "goaway 1 NO_ERROR")
	if _, err := h.conn.Open(connectFields, false); !errors.Is(err, ErrGoAway) {
		t.Errorf("Open = %v, want %v", err, ErrGoAway)
	}
	h.send(first, 1)
	h.send(second, 1)
	expect(t, "sent", h.sent(), "DATA 1 len=1")
	if h.conn.Active() != 1 {
		t.Errorf("Active() = %d, want the one stream that goes on", h.conn.Active())
	}
}

func TestPings(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	h.must(h.framer.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}))
	h.receive()
	expect(t, "sent", h.sent(), "PING 0102030405060708 ack")
	h.conn.Ping(42)
	expect(t, "sent", h.sent(), "PING 000000000000002a")
	h.must(h.framer.WritePing(true, [8]byte{7: 42}))
	expect(t, "events", h.receive(), "pong 42")
}

// After our reset, what was under way is ignored; after the peer's own end it is a fault.
func TestFramesOnClosedStreams(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.connect(1)
	h.connect(3)
	h.receive()
	h.conn.Reset(1, Cancel)
	h.sent()
	h.must(h.framer.WriteData(1, false, make([]byte, 100)))
	h.must(h.framer.WriteWindowUpdate(1, 1))
	h.headers(1, true, "trailer", "x")
	h.must(h.framer.WriteRSTStream(1, http2.ErrCodeCancel))
	h.must(h.framer.WriteData(3, true, nil))
	expect(t, "events", h.receive(), `data 3 "" end`)
	expect(t, "sent", h.sent())
	h.must(h.framer.WriteData(3, false, []byte("more")))
	expect(t, "events", h.receive(), "reset 3 STREAM_CLOSED by us")
	expect(t, "sent", h.sent(), "RST_STREAM 3 STREAM_CLOSED")
	if h.conn.recv.unread != 0 {
		t.Errorf("%d bytes of dead streams are missing in the connection's window", h.conn.recv.unread)
	}
}

func TestResetAfterTheEndKeepsWhatCame(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	id := h.open()
	h.must(h.framer.WriteData(id, true, []byte("last words")))
	h.must(h.framer.WriteRSTStream(id, http2.ErrCodeNo))
	expect(t, "events", h.receive(), `data 1 "last words" end`, "reset 1 NO_ERROR by peer end")
	if h.conn.recv.unread != 10 || h.conn.Active() != 0 {
		t.Errorf("unread %d, active %d, want 10 and 0", h.conn.recv.unread, h.conn.Active())
	}
	h.conn.Consumed(id, 10)
	if len(h.conn.streams) != 0 {
		t.Error("the stream is kept after all was read")
	}
}
