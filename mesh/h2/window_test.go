package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestWindowsOpenOnlyAsTheReaderConsumes(t *testing.T) {
	const window, piece = 1 << 20, 1 << 14
	h := newHarness(t, Config{Role: Server, StreamWindow: window, ConnectionWindow: 4 * window})
	h.connect(1)
	h.receive()
	for range window / piece {
		h.must(h.framer.WriteData(1, false, make([]byte, piece)))
	}
	h.receive()
	expect(t, "sent while nobody reads", h.sent())
	h.conn.Consumed(1, window/2-1)
	expect(t, "sent after less than half was read", h.sent(), "WINDOW_UPDATE 1 +524287")
	h.conn.Consumed(1, 1)
	expect(t, "sent for one byte more", h.sent())
	h.must(h.framer.WriteData(1, false, make([]byte, window/2)))
	expect(t, "events for a byte too many", h.receive(), "reset 1 FLOW_CONTROL_ERROR by us")
}

func TestDataBeyondAWindow(t *testing.T) {
	h := newHarness(t, Config{Role: Server, StreamWindow: 100, ConnectionWindow: 65535})
	h.connect(1)
	h.connect(3)
	h.must(h.framer.WriteData(1, false, make([]byte, 101)))
	h.must(h.framer.WriteData(3, false, make([]byte, 100)))
	if got := h.receive(); len(got) != 4 || got[2] != "reset 1 FLOW_CONTROL_ERROR by us" {
		t.Errorf("events %q", got)
	}
	expect(t, "sent", h.sent(), "RST_STREAM 1 FLOW_CONTROL_ERROR")
	if h.conn.recv.unread != 100 {
		t.Errorf("%d bytes count as unread, want the 100 of the other stream", h.conn.recv.unread)
	}
	h = newHarness(t, Config{Role: Server, StreamWindow: 1 << 20, ConnectionWindow: 65535})
	h.connect(1)
	h.must(h.framer.WriteData(1, false, make([]byte, 65536)))
	h.receive()
	expect(t, "sent", h.sent(), "GOAWAY 1 FLOW_CONTROL_ERROR")
}

func TestResetGivesTheWindowBack(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	h.connect(1)
	for range 200 {
		h.must(h.framer.WriteData(1, false, make([]byte, 16<<10)))
	}
	h.receive()
	if got := h.conn.recv.unread; got != 200*16<<10 {
		t.Errorf("unread = %d", got)
	}
	h.conn.Reset(1, Cancel)
	h.conn.Consumed(1, 1000) // a reader that was late
	w := h.conn.recv
	if w.unread != 0 || w.open+w.credit != w.size {
		t.Errorf("after the reset the window is %+v", w)
	}
}

func TestSendingKeepsToTheWindows(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	id := h.open()
	h.send(id, 100_000)
	expect(t, "sent with both windows at 65535", h.sent(),
		"DATA 1 len=16384", "DATA 1 len=16384", "DATA 1 len=16384", "DATA 1 len=16383")
	h.must(h.framer.WriteWindowUpdate(id, 1000))
	h.receive()
	expect(t, "sent with a closed connection window", h.sent())
	h.must(h.framer.WriteWindowUpdate(0, 1<<20))
	h.receive()
	expect(t, "sent", h.sent(), "DATA 1 len=1000")
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535 + 500},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}))
	h.receive()
	expect(t, "sent after settings that widen", h.sent(), "SETTINGS ack", "DATA 1 len=500")
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	h.receive()
	h.must(h.framer.WriteWindowUpdate(id, 66035))
	h.receive()
	expect(t, "sent with a window that was negative and is 0", h.sent(), "SETTINGS ack")
	h.must(h.framer.WriteWindowUpdate(id, 32))
	h.receive()
	expect(t, "sent", h.sent(), "DATA 1 len=32")
}

func TestStreamsTakeTurns(t *testing.T) {
	h := newHarness(t, Config{Role: Client})
	h.must(h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}))
	h.must(h.framer.WriteWindowUpdate(0, 1<<20))
	h.receive()
	h.sent()
	big, small, ended := h.open(), h.open(), h.open()
	h.send(big, 300_000)
	h.send(small, 100)
	h.conn.Finish(ended)
	expect(t, "sent", h.sent(), "DATA 5 len=0 end", "DATA 1 len=245751", "DATA 3 len=100", "DATA 1 len=54249")
	h.send(big, 10)
	h.conn.Reset(big, Cancel)
	expect(t, "sent after a reset", h.sent(), "RST_STREAM 1 CANCEL")
}

func TestReceiveWindowArithmetic(t *testing.T) {
	for _, test := range []struct {
		size           uint32
		taken, read    int64
		update, unread int64
	}{
		{4 << 20, 1 << 20, 1 << 20, 0, 0},                      // plenty left
		{4 << 20, 2 << 20, 2 << 20, 2 << 20, 0},                // half
		{4 << 20, 4 << 20, 16 << 10, 16 << 10, 4<<20 - 16<<10}, // nothing left
		{4 << 20, 4 << 20, 16<<10 - 1, 0, 4<<20 - 16<<10 + 1},  // nothing left, but too little to tell
		{100, 100, 50, 50, 50},                                 // tiny
		{4 << 20, 3 << 20, 1 << 20, 1 << 20, 2 << 20},          // as much as is left
		{4 << 20, 1000, 5000, 0, 0},                            // more than there was
	} {
		w := newReceiveWindow(test.size)
		w.take(test.taken)
		w.consume(test.read)
		if got := int64(w.update()); got != test.update || w.unread != test.unread {
			t.Errorf("window of %d, %d taken, %d read: update %d, unread %d, want %d and %d",
				test.size, test.taken, test.read, got, w.unread, test.update, test.unread)
		}
		if w.open+w.unread+w.credit != w.size {
			t.Errorf("window is %+v, which does not add up", w)
		}
	}
}

func TestRingKeepsOrder(t *testing.T) {
	var r ring
	streams := make([]*stream, 4)
	for i := range streams {
		streams[i] = &stream{id: uint32(i)}
		r.push(streams[i])
	}
	r.push(streams[0]) // is queued already
	r.remove(streams[1])
	r.remove(streams[1])
	r.remove(streams[3])
	r.push(streams[1])
	var order []string
	for r.first != nil {
		order = append(order, fmt.Sprint(r.first.id))
		r.remove(r.first)
	}
	if got := strings.Join(order, " "); got != "0 2 1" || r.last != nil {
		t.Errorf("order %q", got)
	}
}

// turns has streams that always have as much to send take turns, and returns whose they were.
func turns(n int, amounts map[uint32]int) string {
	var q schedule
	streams := map[uint32]*stream{}
	for id := uint32(1); int(id) <= len(amounts); id++ {
		streams[id] = &stream{id: id}
		q.push(streams[id])
	}
	var order []string
	for range n {
		s, others := q.next()
		order = append(order, fmt.Sprint(s.id))
		if others != (len(amounts) > 1) {
			order = append(order, "others?")
		}
		q.sent(s, amounts[s.id])
		q.push(s)
	}
	return strings.Join(order, " ")
}

func TestWhoseTurnItIs(t *testing.T) {
	for _, test := range []struct {
		name    string
		turns   int
		amounts map[uint32]int
		want    string
	}{
		{"one alone", 3, map[uint32]int{1: quantum}, "1 1 1"},
		{"bulk takes turns", 7, map[uint32]int{1: quantum, 2: quantum, 3: quantum}, "1 2 3 1 2 3 1"},
		{"few bytes take turns", 7, map[uint32]int{1: 10, 2: 10, 3: light}, "1 2 3 1 2 3 1"},
		{"few bytes go before bulk", 6, map[uint32]int{1: quantum, 2: 10, 3: light + 1}, "1 2 3 2 2 2"},
		{"bulk isn't starved by many with few bytes", 2*lightTurns + 5, map[uint32]int{1: quantum, 2: 10},
			"1" + strings.Repeat(" 2", lightTurns-1) + " 1" + strings.Repeat(" 2", lightTurns) + " 1 2 2 2"}, // nobody knew at first
	} {
		if got := turns(test.turns, test.amounts); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
