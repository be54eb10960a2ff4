package h2

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// harness is a connection under test and a peer made of x/net's Framer, so that every byte is read by somebody else's code.
type harness struct {
	tb   testing.TB
	conn *Conn

	in      bytes.Buffer // what the peer sends
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer

	out     bytes.Buffer // what the peer receives
	reader  *http2.Framer
	pending map[uint32]int // data that streams have to send
}

// newHarness makes a connection that has exchanged prefaces and settings with its peer.
func newHarness(tb testing.TB, cfg Config) *harness {
	h := newBareHarness(tb, cfg)
	if cfg.Role == Server {
		h.in.WriteString(preface)
	}
	h.must(h.framer.WriteSettings())
	h.receive()
	h.sent()
	return h
}

func newBareHarness(tb testing.TB, cfg Config) *harness {
	h := &harness{tb: tb, conn: New(cfg), pending: make(map[uint32]int)}
	h.framer = http2.NewFramer(&h.in, nil)
	h.framer.AllowIllegalWrites = true
	h.encoder = hpack.NewEncoder(&h.block)
	h.reader = http2.NewFramer(nil, &h.out)
	h.reader.SetMaxReadFrameSize(1<<24 - 1)
	h.reader.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return h
}

func (h *harness) must(err error) {
	h.tb.Helper()
	if err != nil {
		h.tb.Fatal(err)
	}
}

// receive gives what the peer wrote to the connection and returns the events, one line each.
func (h *harness) receive() []string {
	h.tb.Helper()
	events, err := feed(h.conn, h.in.Bytes(), h.in.Len())
	h.in.Reset()
	if err != nil {
		events = append(events, "error "+err.Error())
	}
	return events
}

// feed gives p to the connection in pieces.
func feed(c *Conn, p []byte, piece int) (events []string, err error) {
	for len(p) > 0 {
		part := p[:min(piece, len(p))]
		p = p[len(part):]
		for len(part) > 0 {
			n, ev, err := c.Receive(part)
			if err != nil {
				return events, err
			}
			part = part[n:]
			if ev.Kind != None {
				events = append(events, describe(ev))
			}
		}
	}
	return events, nil
}

func describe(ev Event) string {
	end := ""
	if ev.EndStream {
		end = " end"
	}
	switch ev.Kind {
	case EventHeaders:
		var fields []string
		for _, f := range ev.Fields {
			fields = append(fields, f.Name+"="+f.Value)
		}
		return fmt.Sprintf("headers %d %s%s", ev.Stream, strings.Join(fields, " "), end)
	case EventData:
		return fmt.Sprintf("data %d %q%s", ev.Stream, ev.Data, end)
	case EventReset:
		by := "peer"
		if ev.Local {
			by = "us"
		}
		return fmt.Sprintf("reset %d %s by %s%s", ev.Stream, ev.Code, by, end)
	case EventSettings:
		return "settings"
	case EventGoAway:
		return fmt.Sprintf("goaway %d %s", ev.Stream, ev.Code)
	}
	return fmt.Sprintf("pong %d", ev.Ping)
}

// takeControl takes all control bytes, as a driver that has room for them.
func takeControl(c *Conn) []byte {
	p := bytes.Clone(c.Control())
	c.Said(len(p))
	return p
}

// sent returns the frames that the connection sends, one line each.
func (h *harness) sent() []string {
	h.tb.Helper()
	if h.conn.cfg.Role == Client && h.conn.control != nil && bytes.HasPrefix(h.conn.control, []byte(preface)) {
		h.conn.control = h.conn.control[len(preface):]
	}
	h.out.Write(takeControl(h.conn))
	for {
		id, n := h.conn.Next()
		if n == 0 {
			break
		}
		n = min(n, h.pending[id])
		if h.pending[id] -= n; n == 0 {
			h.conn.Unready(id)
			continue
		}
		h.out.Write(h.conn.AppendData(nil, id, n, false))
		h.out.Write(make([]byte, n))
		if h.pending[id] > 0 {
			h.conn.Ready(id)
		}
	}
	var lines []string
	for {
		f, err := h.reader.ReadFrame()
		if err == io.EOF {
			return lines
		}
		h.must(err)
		lines = append(lines, describeFrame(f))
	}
}

func describeFrame(f http2.Frame) string {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		var fields []string
		for _, field := range f.Fields {
			fields = append(fields, field.Name+"="+field.Value)
		}
		return fmt.Sprintf("HEADERS %d %s%s", f.StreamID, strings.Join(fields, " "), ending(f.StreamEnded()))
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d len=%d%s", f.StreamID, len(f.Data()), ending(f.StreamEnded()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode)
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d +%d", f.StreamID, f.Increment)
	case *http2.PingFrame:
		return fmt.Sprintf("PING %x%s", f.Data, map[bool]string{true: " ack"}[f.IsAck()])
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		line := "SETTINGS"
		for i := range f.NumSettings() {
			line += " " + f.Setting(i).String()
		}
		return line
	}
	return f.Header().String()
}

func ending(end bool) string {
	if end {
		return " end"
	}
	return ""
}

// headers writes a HEADERS frame of name, value pairs from the peer.
func (h *harness) headers(id uint32, end bool, pairs ...string) {
	h.tb.Helper()
	h.must(h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.encode(pairs...), EndStream: end, EndHeaders: true,
	}))
}

func (h *harness) encode(pairs ...string) []byte {
	h.tb.Helper()
	h.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		h.must(h.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	return bytes.Clone(h.block.Bytes())
}

// connect is the peer's CONNECT (the connection under test is a server).
func (h *harness) connect(id uint32) {
	h.tb.Helper()
	h.headers(id, false, ":method", "CONNECT", ":authority", "a:1")
}

// open opens a stream from our side and has the peer answer it.
func (h *harness) open() uint32 {
	h.tb.Helper()
	id, err := h.conn.Open(connectFields, false)
	h.must(err)
	h.headers(id, false, ":status", "200")
	h.receive()
	h.sent()
	return id
}

// send has the stream send n bytes more, as soon as it may.
func (h *harness) send(id uint32, n int) {
	h.pending[id] += n
	h.conn.Ready(id)
}

var connectFields = []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1"}}

func expect(tb testing.TB, what string, got []string, want ...string) {
	tb.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		tb.Errorf("%s:\n%s\nwant:\n%s", what, g, w)
	}
}
