package hbone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// table is a batch with an application's socket on one side, and on the other somebody who opens what the batch makes.
type table struct {
	t        *testing.T
	batch    batch
	core     *h2.Conn // sends on stream id
	peer     *h2.Conn
	id       uint32
	reader   *record.Reader
	app, fd  int // the application's end, and ours
	received bytes.Buffer
	records  []int // bytes of plaintext in each
}

func newTable(t *testing.T) *table {
	t.Helper()
	tab := &table{
		t: t, core: h2.New(h2.Config{Role: h2.Client}),
		peer: h2.New(h2.Config{Role: h2.Server, StreamWindow: 1 << 30, ConnectionWindow: 1 << 30}),
	}
	tab.reader, tab.batch.writer = oneWay(t, 1)
	tab.batch.space = make([]byte, loop.BufferSize)
	hand := func(from, to *h2.Conn) {
		p := bytes.Clone(from.Control())
		from.Said(len(p))
		for len(p) > 0 {
			n, _, err := to.Receive(p)
			if err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
	}
	hand(tab.core, tab.peer)
	hand(tab.peer, tab.core)
	var err error
	if tab.id, err = tab.core.Open(Request{Authority: AuthorityFromAddr(loopback)}.fields(), false); err != nil {
		t.Fatal(err)
	}
	hand(tab.core, tab.peer)
	tab.app, tab.fd = socketPair()
	for _, fd := range []int{tab.app, tab.fd} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
	return tab
}

// fill puts n bytes of plaintext into the open record.
func (tab *table) fill(n int) {
	tab.t.Helper()
	for n > 0 {
		part := min(n, h2.FrameHeaderLen+8) // a PING
		if part < h2.FrameHeaderLen+8 {
			tab.t.Fatalf("can't fill %d bytes", n)
		}
		tab.core.Ping(uint64(n))
		n -= part
	}
	tab.batch.control(tab.core)
}

// open opens what is sealed and acts as the peer.
func (tab *table) open() error {
	tab.t.Helper()
	for p := tab.batch.space[:tab.batch.sealed]; len(p) > 0; {
		n, err := tab.reader.Next(p)
		if err != nil || n == 0 {
			tab.t.Fatalf("no whole record in the %d bytes that are left: %v", len(p), err)
		}
		plain, err := tab.reader.Open(p[:n])
		if err != nil {
			return err
		}
		tab.records = append(tab.records, len(plain))
		p = p[n:]
		for len(plain) > 0 {
			n, ev, err := tab.peer.Receive(plain)
			if err != nil {
				tab.t.Fatal(err)
			}
			if plain = plain[n:]; ev.Kind == h2.EventData {
				tab.received.Write(ev.Data)
			}
		}
	}
	return nil
}

// What is read straight to its place in the records is what the peer finds there, wherever the records' borders are.
func TestBatchLayout(t *testing.T) {
	const (
		ping  = h2.FrameHeaderLen + 8
		first = record.MaxPlaintext - h2.FrameHeaderLen // payload that the first record takes
		full  = record.MaxPlaintext
	)
	for _, test := range []struct {
		name    string
		before  int // bytes in the open record
		have    int // what the application has sent
		budget  int
		taken   int
		records []int
	}{
		{"a byte", 0, 1, 1 << 20, 1, []int{h2.FrameHeaderLen + 1}},
		{"behind control frames", 3 * ping, 100, 1 << 20, 100, []int{3*ping + h2.FrameHeaderLen + 100}},
		{"a byte less than a record", 0, first - 1, 1 << 20, first - 1, []int{full - 1}},
		{"a record", 0, first, 1 << 20, first, []int{full}},
		{"a byte more than a record", 0, first + 1, 1 << 20, first + 1, []int{full, 1}},
		{"two records", 0, first + full, 1 << 20, first + full, []int{full, full}},
		{"two records and a byte", 0, first + full + 1, 1 << 20, first + full + 1, []int{full, full, 1}},
		{"two records behind control frames", 5 * ping, first + full, 1 << 20, first + full, []int{full, full, 5 * ping}},
		{"the budget is a byte", 0, 1000, 1, 1, []int{h2.FrameHeaderLen + 1}},
		{"the budget is a record", 0, 1 << 20, first, first, []int{full}},
		{"the budget is a byte more than a record", 0, 1 << 20, first + 1, first + 1, []int{full, 1}},
		{"the budget is three records", 0, 1 << 20, first + 2*full, first + 2*full, []int{full, full, full}},
		{"too little is left of a record", (full - pointless/2) / ping * ping, 100, 1 << 20, 100,
			[]int{(full - pointless/2) / ping * ping, h2.FrameHeaderLen + 100}},
		{"more than a batch", 0, 1 << 20, 1 << 20, first + (slots-1)*full, slices.Repeat([]int{full}, slots)},
	} {
		t.Run(test.name, func(t *testing.T) {
			tab := newTable(t)
			tab.fill(test.before)
			content := noise(test.have, 1)
			if n, err := loop.Write(tab.app, content); n != len(content) {
				t.Fatal(n, err)
			}
			n, all, err := tab.batch.receive(tab.fd, tab.core, tab.id, test.budget)
			if n != test.taken || err != nil || all != (test.taken >= test.budget || test.taken == first+(slots-1)*full) {
				t.Errorf("receive = %d, %v, %v, want %d", n, all, err, test.taken)
			}
			tab.batch.seal()
			if err := tab.open(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(tab.received.Bytes(), content[:test.taken]) {
				t.Errorf("the peer has %d bytes, or others", tab.received.Len())
			}
			if !slices.Equal(tab.records, test.records) {
				t.Errorf("records of %d bytes, want %d", tab.records, test.records)
			}
		})
	}
}

// An application that has sent nothing, or has ended, leaves no trace in a batch.
func TestBatchWithoutData(t *testing.T) {
	tab := newTable(t)
	tab.fill(34)
	before := tab.batch.at()
	if n, _, err := tab.batch.receive(tab.fd, tab.core, tab.id, 100); n != 0 || err != unix.EAGAIN {
		t.Errorf("receive of nothing = %d, %v", n, err)
	}
	_ = unix.Shutdown(tab.app, unix.SHUT_WR)
	if n, _, err := tab.batch.receive(tab.fd, tab.core, tab.id, 100); n != 0 || err != nil {
		t.Errorf("receive at the end = %d, %v", n, err)
	}
	if tab.batch.at() != before {
		t.Errorf("the batch grew by %d bytes", tab.batch.at()-before)
	}
}

// The fullest batch that can be has room for control frames and the last alert, and what doesn't fit goes with the next.
func TestFullestBatch(t *testing.T) {
	for _, begun := range []int{0, 1, 100, record.MaxPlaintext - 1} {
		t.Run(fmt.Sprint(begun), func(t *testing.T) {
			tab := newTable(t)
			content := noise(4<<20, 2)
			if n, err := loop.Write(tab.app, content); n != len(content) {
				t.Fatal(n, err)
			}
			b, taken := &tab.batch, 0
			take := func(budget int) {
				n, _, err := b.receive(tab.fd, tab.core, tab.id, budget)
				if taken += n; err != nil || n == 0 {
					t.Fatal(n, err)
				}
			}
			if begun > 0 {
				take(begun)
			}
			for b.sealed+record.SlotLen < fullBatch {
				take(record.MaxPlaintext - h2.FrameHeaderLen)
			}
			take(1 << 20)
			for range 100_000 {
				tab.core.Ping(1)
			}
			b.control(tab.core)
			b.seal()
			if len(tab.core.Control()) == 0 {
				t.Fatal("all control frames fitted; there are too few for this test")
			}
			b.end(record.CloseNotify)
			if b.sealed > len(b.space) {
				t.Fatalf("%d bytes in a buffer of %d", b.sealed, len(b.space))
			}
			if err := tab.open(); !errors.Is(err, io.EOF) {
				t.Errorf("the last record gives %v, want the end", err)
			}
			if !bytes.Equal(tab.received.Bytes(), content[:taken]) {
				t.Errorf("the peer has %d bytes of %d, or others", tab.received.Len(), taken)
			}
		})
	}
}

func TestControlFramesGoOnInTheNextBatch(t *testing.T) {
	tab := newTable(t)
	for i := range 100_000 {
		tab.core.Ping(uint64(i))
	}
	want := bytes.Clone(tab.core.Control())
	var got []byte
	batches := 0
	for ; len(tab.core.Control()) > 0 && batches < 100; batches++ {
		tab.batch.sealed = 0
		tab.batch.control(tab.core)
		tab.batch.seal()
		for p := tab.batch.space[:tab.batch.sealed]; len(p) > 0; {
			n, _ := tab.reader.Next(p)
			plain, err := tab.reader.Open(p[:n])
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, plain...)
			p = p[n:]
		}
	}
	if !bytes.Equal(got, want) || batches < 3 {
		t.Errorf("%d bytes in %d batches, want %d, or others", len(got), batches, len(want))
	}
}

func TestBatchUnderNewKeys(t *testing.T) {
	tab := newTable(t)
	tab.fill(34)
	if err := tab.batch.rekey(); err != nil {
		t.Fatal(err)
	}
	content := noise(50_000, 3)
	_, _ = loop.Write(tab.app, content)
	if _, _, err := tab.batch.receive(tab.fd, tab.core, tab.id, 1<<20); err != nil {
		t.Fatal(err)
	}
	tab.batch.seal()
	if err := tab.open(); err != nil || !bytes.Equal(tab.received.Bytes(), content) {
		t.Errorf("the peer has %d bytes, %v", tab.received.Len(), err)
	}
}

// packets are sockets that keep writes apart.
func packets() (a, b int) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	for _, fd := range pair {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	return pair[0], pair[1]
}

// drainPackets reads all packets and returns their lengths.
func drainPackets(fd int) (lengths []int) {
	for p := make([]byte, 1<<20); ; {
		n, err := loop.Read(fd, p)
		if err != nil || n == 0 {
			return lengths
		}
		lengths = append(lengths, n)
	}
}

// scriptedStream opens a stream on a scripted tunnel, has the peer accept it and give it a large window, and joins it.
func scriptedStream(t *testing.T, s *scripted, inner int) *Stream {
	t.Helper()
	_ = s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
	_ = s.WriteWindowUpdate(0, 1<<28)
	s.say()
	s.settle()
	stream, err := s.tunnel.open(Request{Authority: AuthorityFromAddr(loopback)}.fields())
	if err != nil {
		t.Fatal(err)
	}
	stream.waiting = &Attempt{stream: stream, done: func(*Stream, error) {}}
	_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream.id, BlockFragment: []byte{0x88}, EndHeaders: true}) // :status 200
	s.say()
	s.settle()
	if !stream.answered {
		t.Fatal("the stream has no answer")
	}
	stream.Join(inner, func(relay.Result) {})
	s.settle()
	return stream
}

// However many streams and records: what a turn sends is one system call, and what it brings for an application is one.
func TestATurnIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own, peer := packets()
		s := newScriptedOver(t, tunnelConfig{}, own, peer)
		inner, outer := packets()
		defer func() { _ = unix.Close(outer) }()
		stream := scriptedStream(t, s, inner)
		other, otherOuter := socketPair()
		defer func() { _ = unix.Close(otherOuter) }()
		scriptedStream(t, s, other)
		drainPackets(s.fd)

		_, _ = loop.Write(outer, make([]byte, 10_000))
		_, _ = loop.Write(otherOuter, make([]byte, 150_000))
		s.settle()
		want := h2.FrameHeaderLen + 10_000 + h2.FrameHeaderLen + 150_000
		if got := drainPackets(s.fd); len(got) != 1 || got[0] < want || got[0] > want+20*record.Overhead {
			t.Errorf("the tunnel wrote %d bytes, want about %d in one piece", got, want)
		}

		for range 5 {
			_ = s.WriteData(stream.id, false, make([]byte, 7000))
		}
		s.say()
		s.settle()
		if got := drainPackets(outer); len(got) != 1 || got[0] != 35_000 {
			t.Errorf("the application got pieces of %d bytes, want one of 35000", got)
		}
	})
}

// Who asks for the next connection waits for its answer, and nobody for the end of the one before: so the answer goes first, and the end after it,
// but in the same turn.
func TestAnswersGoBeforeTheEndsOfOthers(t *testing.T) {
	for name, half := range map[string]bool{"half of the connection ends": true, "all of it ends": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				near, far := p.joined()
				if !half {
					_ = unix.Shutdown(far.app, unix.SHUT_WR)
				}
				p.settle()
				var answered, ended, between, turnOver bool
				buffer := make([]byte, 1)
				atEnd := func() bool {
					n, err := loop.Read(far.app, buffer)
					return n == 0 && err == nil
				}
				look := loop.Task{Run: func() {
					waiting, err := unix.IoctlGetInt(p.pool.tunnels()[0].fd, unix.TIOCINQ)
					answered, ended, between = err == nil && waiting > 0, atEnd(), true
				}}
				p.handle = func(in *Incoming) {
					s, err := in.Accept(Baggage{}) // queues what is sent
					if err != nil {
						t.Fatal(err)
					}
					p.loop.Output(&look) // which comes after it
					_ = p.loop.Post(func() { turnOver = atEnd() })
					_ = p.loop.Post(s.Reset)
				}
				_ = unix.Shutdown(near.app, unix.SHUT_WR)
				if s, err := p.connect(); err != nil {
					t.Fatal(err)
				} else {
					s.Reset()
				}
				if !between || !answered {
					t.Error("the turn that brings both is over without the answer")
				}
				if ended {
					t.Error("the end is passed on before the answer is sent")
				}
				if !turnOver {
					t.Error("the end isn't passed on in the turn that brought it")
				}
			})
		})
	}
}

// Data that goes through costs no allocation, in either direction.
func TestChunksAreNotAllocated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPair(t).joined()
		chunk, space := noise(60_000, 4), make([]byte, 128<<10)
		move := func(from, to int) {
			if n, err := loop.Write(from, chunk); n != len(chunk) {
				t.Fatal(n, err)
			}
			for got := 0; got < len(chunk); {
				near.loop.Turn()
				for n, err := loop.Read(to, space); err == nil && n > 0; n, err = loop.Read(to, space) {
					got += n
				}
			}
		}
		for range 100 {
			move(near.app, far.app) // until all windows and buffers have grown
			move(far.app, near.app)
		}
		for name, f := range map[string]func(){
			"up":   func() { move(near.app, far.app) },
			"down": func() { move(far.app, near.app) },
		} {
			if n := testing.AllocsPerRun(200, f); n != 0 {
				t.Errorf("%s: %v allocations per chunk", name, n)
			}
		}
	})
}
