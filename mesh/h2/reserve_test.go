package h2

import (
	"fmt"
	"testing"
)

const fullWindow, onePiece = 4 << 20, 16 << 10

// stall has the peer fill the windows of n more streams, as far as the connection's lets it, and returns what is left of that.
func (h *harness) stall(n int, peerWindow int) int {
	for range n {
		id := h.conn.seen + 2
		if h.conn.seen == 0 {
			id = 1
		}
		h.connect(id)
		for range fullWindow / onePiece {
			if peerWindow < onePiece {
				return peerWindow
			}
			peerWindow += h.piece(id)
		}
	}
	return peerWindow
}

// piece has the peer send some of a stream, and returns what that does to the connection's window.
func (h *harness) piece(id uint32) (change int) {
	h.tb.Helper()
	h.must(h.framer.WriteData(id, false, make([]byte, onePiece)))
	for p := h.in.Next(h.in.Len()); len(p) > 0; {
		n, _, err := h.conn.Receive(p)
		h.must(err)
		p = p[n:]
	}
	return h.credited() - onePiece
}

// credited is by how much the connection's window was opened.
func (h *harness) credited() (sum int) {
	for _, line := range h.sent() {
		var n int
		if _, err := fmt.Sscanf(line, "WINDOW_UPDATE 0 +%d", &n); err == nil {
			sum += n
		}
	}
	return sum
}

// Streams that nobody reads hold what came for them, and another one still gets through, at full speed.
func TestStalledStreamsDoNotStarveOthers(t *testing.T) {
	h := newHarness(t, Config{Role: Server})
	peerWindow := h.stall(16, 16<<20)
	id := h.conn.seen + 2
	h.connect(id)
	h.receive()
	for moved := 0; moved < 64<<20; moved += onePiece {
		if peerWindow < 2<<20 {
			t.Fatalf("after %d bytes the connection's window is only %d", moved, peerWindow)
		}
		peerWindow += h.piece(id)
		h.conn.Consumed(id, onePiece)
	}
}

// However many streams stall, a tunnel doesn't hold more than its window and what the reserve gives it.
func TestReserveIsTheLimitOfStalledStreams(t *testing.T) {
	h := newHarness(t, Config{Role: Server, Reserve: NewReserve(64 << 20)})
	if left := h.stall(100, 16<<20); left >= onePiece {
		t.Errorf("with 100 stalled streams the peer may send %d more", left)
	}
	if held := h.conn.Unread(); held > (16+32)<<20 || held < (16+31)<<20 {
		t.Errorf("the tunnel holds %d bytes, want its window of 16 MiB and half of the reserve", held)
	}
}

func TestConnectionsShareAReserve(t *testing.T) {
	reserve := NewReserve(64 << 20)
	for _, end := range []struct {
		name string
		end  func(*Conn)
	}{
		{"reset", func(c *Conn) {
			for id := range c.streams {
				c.Reset(id, Cancel)
			}
		}},
		{"read", func(c *Conn) {
			for id := range c.streams {
				c.Consumed(id, fullWindow)
			}
		}},
		{"closed", func(c *Conn) { c.Close(NoError, "") }},
	} {
		t.Run(end.name, func(t *testing.T) {
			first := newHarness(t, Config{Role: Server, Reserve: reserve})
			first.stall(100, 16<<20)
			second := newHarness(t, Config{Role: Server, Reserve: reserve})
			second.stall(5, 16<<20)
			if second.conn.recv.lent < 10<<20 {
				t.Errorf("one tunnel's stalled streams leave %d bytes for another's", second.conn.recv.lent)
			}
			end.end(first.conn)
			end.end(second.conn)
			if reserve.free != 64<<20 {
				t.Errorf("%d bytes of the reserve are back", reserve.free)
			}
		})
	}
}
