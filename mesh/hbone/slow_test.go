package hbone

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// Peers that are always about to say something, once the handshake is over, are found out by pings: they can't answer one before
// they have finished.
func TestPeersThatNeverFinishAFrame(t *testing.T) {
	for name, frames := range map[string]func(answer []byte) []byte{
		"headers": func(answer []byte) []byte { return frame(0x1, 0x4, 1, make([]byte, 8<<10)...) },
		"headers that go on": func(answer []byte) []byte {
			return append(frame(0x1, 0, 1, answer...), frame(0x9, 0, 1, make([]byte, 8<<10)...)...)
		},
		"data": func(answer []byte) []byte {
			return append(frame(0x1, 0x4, 1, answer...), frame(0, 0, 1, make([]byte, 1<<20)...)...)
		},
		"a frame's header":    func(answer []byte) []byte { return frame(0x6, 0, 0)[:8] },
		"a frame of no kind":  func(answer []byte) []byte { return frame(0xbe, 0, 0, make([]byte, 1<<20)...) },
		"settings that go on": func(answer []byte) []byte { return frame(0x4, 0, 0, make([]byte, 6*60)...) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScripted(t, tunnelConfig{})
				_ = s.WriteSettings()
				s.say()
				var told error
				stream, err := s.tunnel.open(Request{}.fields())
				if err != nil {
					t.Fatal(err)
				}
				stream.waiting = &Attempt{stream: stream, done: func(joined *Stream, err error) {
					if told = err; joined != nil {
						joined.Reset()
					}
				}}
				left := frames([]byte{0x88})
				begun := time.Now()
				stop := s.every(100*time.Millisecond, func() {
					if len(left) > 0 && s.tunnel.err == nil {
						s.out.Write(left[:1])
						left = left[1:]
						s.say()
					}
				})
				defer stop()
				s.answer(func() bool { return false })
				s.until(func() bool { return s.tunnel.err != nil }, time.Hour)
				if age := time.Since(begun); age > pingInterval+pingTimeout || !errors.Is(s.tunnel.err, errPing) {
					t.Errorf("the tunnel ended after %v with %v (the request got %v)", age, s.tunnel.err, told)
				}
			})
		})
	}
}

// What a peer costs that doesn't get on with its handshake.
func TestMemoryOfSlowPeers(t *testing.T) {
	const peers = 500
	hello := clientHello()
	for name, test := range map[string]struct {
		said []byte
		most uint64 // bytes for each
	}{
		"says nothing":          {nil, 4 << 10},
		"stops within a record": {hello[:100], 8 << 10},
		"stops after its hello": {hello, 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				before := inUse()
				var ours [peers]int
				for i := range ours {
					var theirs int
					ours[i], theirs = socketPair()
					if len(test.said) > 0 {
						_, _ = loop.Write(ours[i], test.said)
					}
					p.srv.Serve(theirs, netip.AddrPort{}, netip.AddrPort{})
				}
				p.settle()
				each := (inUse() - before) / peers
				t.Logf("%d bytes of heap for each", each)
				if each > test.most {
					t.Errorf("each of %d slow peers costs %d bytes of heap, want %d at most", peers, each, test.most)
				}
				p.until(func() bool { return len(p.srv.handshakes) == 0 }, time.Minute)
				if len(p.failures) != peers {
					t.Errorf("%d of %d slow peers were told of", len(p.failures), peers)
				}
				for _, fd := range ours {
					_ = unix.Close(fd)
				}
			})
		})
	}
}
