package h2

import (
	"slices"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// FuzzReceive feeds arbitrary bytes behind a valid beginning to either role. Whatever comes, the windows add up, what is kept
// is bounded, and the pieces in which it comes make no difference.
func FuzzReceive(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte("\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, mode uint8, input []byte) {
		role := Role(mode & 1)
		start := func() *Conn {
			c := New(Config{Role: role, StreamWindow: 1 << 16, ConnectionWindow: 1 << 17, MaxHeaderList: 4 << 10, MaxStreams: 3})
			beginning := appendSettings(nil)
			if role == Server {
				beginning = append([]byte(preface), beginning...)
			} else {
				for range 3 {
					_, _ = c.Open(connectFields, false)
				}
			}
			if _, err := feed(c, beginning, len(beginning)); err != nil {
				t.Fatal(err)
			}
			return c
		}
		whole, pieces := start(), start()
		gotWhole, errWhole := feed(whole, input, len(input)+1)
		gotPieces, errPieces := feed(pieces, input, 1+int(mode>>1))
		if (errWhole == nil) != (errPieces == nil) || !slices.Equal(joinData(gotWhole), joinData(gotPieces)) {
			t.Errorf("whole: %q %v, in pieces: %q %v", gotWhole, errWhole, gotPieces, errPieces)
		}
		for _, c := range []*Conn{whole, pieces} {
			checkInvariants(t, c)
		}
	})
}

// joinData leaves out what depends on the pieces: how DATA was cut.
func joinData(events []string) []string {
	return slices.DeleteFunc(events, func(line string) bool { return line[:4] == "data" })
}

func checkInvariants(t *testing.T, c *Conn) {
	t.Helper()
	counted := 0
	unread := int64(0)
	for _, s := range c.streams {
		if s.counted {
			counted++
		}
		unread += s.recv.unread
		if s.recv.open+s.recv.unread+s.recv.credit != s.recv.size && c.err == nil {
			t.Errorf("window of stream %d does not add up: %+v", s.id, s.recv)
		}
	}
	if counted != c.active {
		t.Errorf("%d streams count as active, %d are", c.active, counted)
	}
	if w := c.recv; c.err == nil && (w.open+w.unread+w.credit != w.size || w.unread != unread) {
		t.Errorf("connection's window does not add up: %+v, unread of streams %d", w, unread)
	}
	if len(c.control) > 256<<10 || len(c.in.block) > 8<<10 || len(c.in.payload) > maxGoAway {
		t.Errorf("too much is kept: control %d, block %d, payload %d", len(c.control), len(c.in.block), len(c.in.payload))
	}
}

// FuzzHeaders decodes arbitrary header blocks. What is accepted as a request keeps to the rules that those above rely on.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte("\x02\x07CONNECT\x01\x03a:1"))
	f.Fuzz(func(t *testing.T, block []byte) {
		c := New(Config{Role: Server, MaxHeaderList: 4 << 10})
		if err := c.decode(block); err != nil {
			return
		}
		if size := listSize(c.fields); size > 4<<10 {
			t.Errorf("a list of %d bytes is kept", size)
		}
		if !validRequest(c.fields, false) {
			return
		}
		regular := slices.IndexFunc(c.fields, func(f hpack.HeaderField) bool { return !f.IsPseudo() })
		for i, f := range c.fields {
			if f.IsPseudo() && regular >= 0 && i > regular {
				t.Errorf("pseudo field %q after others", f.Name)
			}
			if slices.ContainsFunc([]byte(f.Name+f.Value), func(b byte) bool { return b == '\r' || b == '\n' || b == 0 }) {
				t.Errorf("field %q holds a line break", f)
			}
		}
	})
}
