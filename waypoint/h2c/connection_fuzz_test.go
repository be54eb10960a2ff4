package h2c

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// wire is a loop without a goroutine and a connection of which the test has one end.
type wire struct {
	loop *loop.Loop
	pipe *pipe.Pipe
	fd   int
}

func newWire(t *testing.T) *wire {
	l, err := loop.Manual()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &wire{l, pipe.OverSocket(l, fds[0], nil), fds[1]}
}

// play sends p in pieces, reads what comes, and closes.
func (w *wire) play(p []byte, piece int) {
	into := make([]byte, 64<<10)
	for rest := p; ; {
		for turns := 0; w.loop.Turn() == 0 && turns < 1000; turns++ {
			_, _ = unix.Read(w.fd, into)
		}
		if len(rest) == 0 {
			break
		}
		n := min(piece, len(rest))
		if _, err := unix.Write(w.fd, rest[:n]); err != nil {
			break
		}
		rest = rest[n:]
	}
	_ = unix.Close(w.fd)
	for turns := 0; w.loop.Turn() == 0 && turns < 1000; turns++ {
		continue
	}
}

func (w *wire) close() {
	w.pipe.Reset()
	w.loop.Close()
}

// echoing answers with what it is sent, and says something of its own to what it is told of upgrades.
type echoing struct {
	client    exchange.Client
	responded bool
}

func (e *echoing) respond() {
	if !e.responded {
		e.responded = true
		e.client.Inform(&exchange.Response{Status: 103})
		e.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
	}
}

func (e *echoing) Data(p []byte) {
	e.respond()
	e.client.Data(p)
	e.client.Consumed(len(p))
}

func (e *echoing) End(trailers []exchange.Field) {
	e.respond()
	e.client.End(trailers)
}

func (e *echoing) Abort(error)  {}
func (e *echoing) Consumed(int) {}

func frames(write func(*http2.Framer, func(...string) []byte)) []byte {
	var out, block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	write(http2.NewFramer(&out, nil), func(pairs ...string) []byte {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			_ = encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		return block.Bytes()
	})
	return out.Bytes()
}

// FuzzClientsBytes gives a Server of either version anything, in pieces: it keeps the contract, and when the client has closed it is over.
func FuzzClientsBytes(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 5, false)
	f.Add([]byte("GET / HTTP/1.0\r\n\r\nGET"), 100, false)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\nabc"), 100, false)
	f.Add(append([]byte(http2.ClientPreface), frames(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings()
		for id := uint32(1); id < 6; id += 2 {
			head := block(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a", "content-length", "3")
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true})
			_ = w.WriteData(id, id == 1, []byte("abc"))
		}
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block("x", "y"), EndStream: true, EndHeaders: true})
		_ = w.WriteRSTStream(5, http2.ErrCodeCancel)
		_ = w.WritePing(false, [8]byte{})
		_ = w.WriteGoAway(0, http2.ErrCodeNo, nil)
	})...), 7, true)
	f.Fuzz(func(t *testing.T, p []byte, piece int, second bool) {
		if len(p) > 100_000 {
			return
		}
		w := newWire(t)
		defer w.close()
		over := false
		closed := func() { over = true }
		handle := held(t, func(_ *exchange.Request, client exchange.Client) exchange.Server { return &echoing{client: client} })
		if second {
			Serve(w.pipe, ServerConfig{Handle: handle, Closed: closed})
		} else {
			h1.Serve(w.pipe, h1.ServerConfig{Scheme: "http", Handle: handle, Closed: closed})
		}
		w.play(p, 1+max(0, piece)%5000)
		if !over {
			t.Fatal("the client has closed, and the connection isn't over")
		}
	})
}

// FuzzServersBytes gives a Client of either version anything for an answer: it keeps the contract, and when the server has closed, the exchange
// and the connection are over.
func FuzzServersBytes(f *testing.F) {
	f.Add([]byte("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"), 5, false)
	f.Add([]byte("HTTP/1.0 200 OK\r\n\r\nabc"), 100, false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcmore"), 100, false)
	f.Add(frames(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings()
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":status", "103"), EndHeaders: true})
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":status", "200", "content-length", "3"), EndHeaders: true})
		_ = w.WriteData(1, false, []byte("abc"))
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("grpc-status", "0"), EndStream: true, EndHeaders: true})
		_ = w.WriteGoAway(1, http2.ErrCodeNo, nil)
	}), 7, true)
	f.Fuzz(func(t *testing.T, p []byte, piece int, second bool) {
		if len(p) > 100_000 {
			return
		}
		w := newWire(t)
		defer w.close()
		gone := 0
		var handle exchange.Handler
		if second {
			handle = NewClient(w.pipe, ClientConfig{Room: func(*Client) {}, Gone: func(*Client) { gone++ }}).Handle
		} else {
			handle = h1.NewClient(w.pipe, h1.ClientConfig{Free: func(*h1.Client) {}, Gone: func(*h1.Client) { gone++ }}).Handle
		}
		a := new(asker)
		a.server = held(t, handle)(&exchange.Request{Method: "POST", Scheme: "http", Authority: "a", Path: "/", Length: exchange.UnknownLength}, a)
		a.server.Data([]byte("question"))
		a.server.End(nil)
		w.play(p, 1+max(0, piece)%5000)
		if gone != 1 || a.ended == (a.err != nil) {
			t.Fatalf("the server has closed: connection gone %d times, answer complete: %v, error: %v", gone, a.ended, a.err)
		}
	})
}
