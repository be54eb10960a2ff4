package hbone

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/relay"
)

// frame is a frame's bytes.
func frame(kind, flags uint8, stream uint32, payload ...byte) []byte {
	p := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(p, stream), payload...)
}

func repeat(n int, p []byte) []byte { return slices.Repeat(p, n) }

// connectFrame asks for a connection.
func connectFrame(stream uint32) []byte { return frame(0x1, 0x4, stream, connectBlock()...) }

func connectBlock() []byte {
	var block writer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	_ = e.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	_ = e.WriteField(hpack.HeaderField{Name: ":authority", Value: "10.0.0.1:80"})
	return block
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

// eachStream concatenates what f makes for n streams.
func eachStream(n int, f func(id uint32) []byte) (p []byte) {
	for i := range n {
		p = append(p, f(uint32(2*i+1))...)
	}
	return p
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// setting is the payload of SETTINGS with one entry.
func setting(id uint16, value uint32) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), u32(value)...)
}

// hostile is what a client with a good certificate sends after its settings, and how that ends for it: with a GOAWAY of a code,
// or, with "", not at all, as it does no harm.
var hostile = []struct {
	name  string
	want  string
	bytes func() []byte
}{
	{"rapid reset", "ENHANCE_YOUR_CALM", func() []byte {
		return eachStream(5000, func(id uint32) []byte { return append(connectFrame(id), frame(0x3, 0, id, u32(8)...)...) })
	}},
	{"SETTINGS", "ENHANCE_YOUR_CALM", func() []byte { return repeat(5000, frame(0x4, 0, 0)) }},
	{"PING", "ENHANCE_YOUR_CALM", func() []byte { return repeat(5000, frame(0x6, 0, 0, make([]byte, 8)...)) }},
	{"GOAWAY", "ENHANCE_YOUR_CALM", func() []byte { return repeat(5000, frame(0x7, 0, 0, make([]byte, 8)...)) }},
	{"CONTINUATION without an end", "ENHANCE_YOUR_CALM", func() []byte {
		return append(frame(0x1, 0, 1, connectBlock()...), repeat(100_000, frame(0x9, 0, 1, 0x20))...)
	}},
	{"empty CONTINUATION without an end", "ENHANCE_YOUR_CALM", func() []byte {
		return append(frame(0x1, 0, 1, connectBlock()...), repeat(100_000, frame(0x9, 0, 1))...)
	}},
	{"empty DATA", "ENHANCE_YOUR_CALM", func() []byte { return append(connectFrame(1), repeat(100_000, frame(0, 0, 1))...) }},
	{"DATA of nothing but padding", "ENHANCE_YOUR_CALM", func() []byte {
		return append(connectFrame(1), repeat(10_000, frame(0, 0x8, 1, append([]byte{200}, make([]byte, 200)...)...))...)
	}},
	{"DATA byte by byte", "", func() []byte { return append(connectFrame(1), repeat(500_000, frame(0, 0, 1, 'x'))...) }},
	{"PRIORITY", "ENHANCE_YOUR_CALM", func() []byte { return repeat(100_000, frame(0x2, 0, 1, 0, 0, 0, 0, 1)) }},
	{"unknown frames", "ENHANCE_YOUR_CALM", func() []byte { return repeat(100_000, frame(0xbe, 0, 1, 1)) }},
	{"unknown settings", "ENHANCE_YOUR_CALM", func() []byte { return repeat(5000, frame(0x4, 0, 0, repeat(60, setting(0xbe, 1))...)) }},
	{"WINDOW_UPDATE", "ENHANCE_YOUR_CALM", func() []byte { return append(connectFrame(1), repeat(300_000, frame(0x8, 0, 1, u32(1)...))...) }},
	{"WINDOW_UPDATE of the tunnel", "ENHANCE_YOUR_CALM", func() []byte { return repeat(300_000, frame(0x8, 0, 0, u32(1)...)) }},
	{"WINDOW_UPDATE of 0", "PROTOCOL_ERROR", func() []byte { return frame(0x8, 0, 0, u32(0)...) }},
	{"a window that overflows", "FLOW_CONTROL_ERROR", func() []byte { return repeat(2, frame(0x8, 0, 0, u32(1<<31-1)...)) }},
	{"streams' windows that overflow", "ENHANCE_YOUR_CALM", func() []byte {
		return eachStream(5000, func(id uint32) []byte {
			return append(connectFrame(id), repeat(2, frame(0x8, 0, id, u32(1<<31-1)...))...)
		})
	}},
	{"an initial window that makes others overflow", "FLOW_CONTROL_ERROR", func() []byte {
		return slices.Concat(connectFrame(1), frame(0x8, 0, 1, u32(1<<30)...), frame(0x4, 0, 0, setting(4, 1<<31-1)...))
	}},
	{"windows that open and shut", "ENHANCE_YOUR_CALM", func() []byte {
		return append(eachStream(100, connectFrame), repeat(2000, slices.Concat(frame(0x4, 0, 0, setting(4, 0)...), frame(0x4, 0, 0, setting(4, 1<<20)...)))...)
	}},
	{"headers larger than announced", "ENHANCE_YOUR_CALM", func() []byte { return frame(0x1, 0x4, 1, make([]byte, 80_000)...) }},
	{"headers that unpack to much", "ENHANCE_YOUR_CALM", func() []byte {
		// A field of 4 kB goes into the table; each byte that follows stands for it once more.
		return frame(0x1, 0x4, 1, slices.Concat([]byte{0x40, 1, 'a', 0x7f, 0xa1, 0x1e}, make([]byte, 4000), repeat(60_000, []byte{0xbe}))...)
	}},
	{"headers a little longer than announced", "ENHANCE_YOUR_CALM", func() []byte {
		return eachStream(5000, func(id uint32) []byte { return frame(0x1, 0x4, id, repeat(2000, []byte{0x82})...) })
	}},
	{"trailers", "ENHANCE_YOUR_CALM", func() []byte {
		return eachStream(5000, func(id uint32) []byte { return append(connectFrame(id), frame(0x1, 0x5, id, 0x40, 1, 'a', 1, 'b')...) })
	}},
	{"data on closed streams", "ENHANCE_YOUR_CALM", func() []byte {
		return slices.Concat(connectFrame(1), frame(0x3, 0, 1, u32(8)...), repeat(30_000, frame(0, 0, 1, 'x')))
	}},
	{"data on streams that never were", "PROTOCOL_ERROR", func() []byte { return frame(0, 0, 7, 'x') }},
	{"requests without end", "ENHANCE_YOUR_CALM", func() []byte { return eachStream(5000, connectFrame) }},
	{"PUSH_PROMISE", "PROTOCOL_ERROR", func() []byte { return frame(0x5, 0x4, 1, append(u32(2), connectBlock()...)...) }},
	{"data beyond a stream's window", "", func() []byte {
		return append(connectFrame(1), repeat(60, frame(0, 0, 1, make([]byte, 1<<20)...))...)
	}},
}

// Whatever a peer does costs it its tunnel or is harmless; a connection through another tunnel of the same loop goes on, and
// nothing is left of the peer.
func TestHostilePeers(t *testing.T) {
	// The peer is another process in truth: it must not take the processors from the loops, which then wait for Go's scheduler.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			neighbour := b.tunnelled()
			b.onConnect(hung)
			p := b.rawClient()
			watch := newWatch(neighbour)
			got := attack(p, test.bytes())
			worst := watch.stop()
			if got != test.want {
				t.Errorf("it ends with %q, want %q", got, test.want)
			}
			if worst.err != nil || worst.slowest > slowest {
				t.Errorf("a neighbour's round trip took %v, %v", worst.slowest, worst.err)
			}
			t.Logf("round trips of a neighbour: %v at the most", worst.slowest)
			_ = p.conn.Close()
			eventually(t, "the tunnel to go", func() bool { return len(b.allTunnels()) == 1 })
		})
	}
}

// A server has fewer ways, as it can't ask for anything. What waits for it fails, and a connection through another tunnel goes on.
func TestHostileServers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	for _, test := range []struct {
		name, want string
		bytes      []byte
	}{
		{"SETTINGS", "ENHANCE_YOUR_CALM", repeat(5000, frame(0x4, 0, 0))},
		{"PING", "ENHANCE_YOUR_CALM", repeat(5000, frame(0x6, 0, 0, make([]byte, 8)...))},
		{"interim answers", "ENHANCE_YOUR_CALM", repeat(5000, frame(0x1, 0x4, 1, 0x08, 3, '1', '0', '0'))},
		{"an interim answer that never ends", "ENHANCE_YOUR_CALM", append(frame(0x1, 0, 1, 0x08, 3, '1', '0', '0'), repeat(1000, frame(0x9, 0, 1))...)},
		{"a request", "PROTOCOL_ERROR", connectFrame(2)},
		{"PUSH_PROMISE", "PROTOCOL_ERROR", frame(0x5, 0x4, 1, append(u32(2), connectBlock()...)...)},
		{"settings that allow pushes", "PROTOCOL_ERROR", frame(0x4, 0, 0, setting(2, 1)...)},
		{"frames too small for anybody", "PROTOCOL_ERROR", frame(0x4, 0, 0, setting(5, 100)...)},
		{"data before the answer", "ENHANCE_YOUR_CALM", repeat(30_000, frame(0, 0, 1, 'x'))},
		{"an answer to nothing", "PROTOCOL_ERROR", frame(0x1, 0x4, 9, 0x88)},
		{"GOAWAY", "NO_ERROR", repeat(5000, frame(0x7, 0, 0, append(u32(1), u32(0)...)...))}, // the client goes as well
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			neighbour := b.tunnelled()
			ended := make(chan string, 1)
			target := b.target()
			target.Addr = b.rawServer(func(p *rawPeer) {
				p.request()
				ended <- attack(p, test.bytes)
				_ = p.conn.Close()
			})
			watch := newWatch(neighbour)
			_, err := connect(b.pool, target, b.request())
			if got := <-ended; got != test.want || err == nil {
				t.Errorf("it ends with %q, want %q; Connect = %v, want an error", got, test.want, err)
			}
			if worst := watch.stop(); worst.err != nil || worst.slowest > slowest {
				t.Errorf("a neighbour's round trip took %v, %v", worst.slowest, worst.err)
			}
		})
	}
}

// slowest is how long a neighbour's round trip may take at worst; most of it is the race detector's on a busy machine.
const slowest = 5 * time.Second

// hung accepts no connection and refuses none.
func hung(*Incoming) {}

// attack sends bytes and returns the code of the GOAWAY that answers; "" if none has when all was taken and a PING is answered.
func attack(p *rawPeer, bytes []byte) string {
	var sender sync.WaitGroup
	sender.Go(func() {
		_, err := p.conn.Write(bytes)
		if err == nil {
			_, _ = p.conn.Write(frame(0x6, 0, 0, []byte("all done")...))
		}
	})
	defer sender.Wait()
	for {
		f, err := p.ReadFrame()
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			go func() { _, _ = io.Copy(io.Discard, p.conn) }()
			return f.ErrCode.String()
		case *http2.PingFrame:
			if f.IsAck() && string(f.Data[:]) == "all done" {
				return ""
			}
			if !f.IsAck() {
				_ = p.WritePing(true, f.Data)
			}
		}
		if err != nil && !errors.As(err, new(http2.StreamError)) {
			return err.Error()
		}
	}
}

// watch measures round trips over a connection.
type watch struct {
	end     chan struct{}
	done    chan struct{}
	slowest time.Duration
	err     error
}

func newWatch(e *ends) *watch {
	w := &watch{end: make(chan struct{}), done: make(chan struct{})}
	go w.run(e.near, e.far)
	return w
}

func (w *watch) run(near, far *net.TCPConn) {
	defer close(w.done)
	for p := make([]byte, 1); w.err == nil; {
		select {
		case <-w.end:
			return
		default:
		}
		began := time.Now()
		for _, c := range [][2]*net.TCPConn{{near, far}, {far, near}} {
			if _, w.err = c[0].Write(p); w.err == nil {
				_, w.err = io.ReadFull(c[1], p)
			}
		}
		w.slowest = max(w.slowest, time.Since(began))
	}
}

func (w *watch) stop() *watch {
	close(w.end)
	<-w.done
	return w
}

// A client that opens all streams it may, sends all it may and goes away again and again leaves nothing behind.
func TestHostilePeersLeaveNothing(t *testing.T) {
	b := newBed(t)
	b.onConnect(func(in *Incoming) {
		if s, err := in.Accept(Baggage{}); err == nil {
			_, inner := tcpPair(t)
			joinHere(s, inner, make(chan relay.Result, 1))
		}
	})
	flood := append(eachStream(20, connectFrame), eachStream(20, func(id uint32) []byte { return frame(0, 0, id, make([]byte, 256<<10)...) })...)
	round := func() {
		p := b.rawClient()
		_ = attack(p, flood)
		_ = p.conn.Close()
		eventually(t, "the tunnel to go", func() bool { return len(b.allTunnels()) == 0 })
	}
	round()
	before := inUse()
	for range 10 {
		round()
	}
	if after := inUse(); after > before+8<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
}

func inUse() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
