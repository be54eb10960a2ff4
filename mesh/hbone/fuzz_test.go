package hbone

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/record"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// fuzzed is a tunnel of either role whose peer says whatever the fuzzer likes. Its streams are joined, refused, reset or forgotten.
type fuzzed struct {
	*clockwork
	tunnel *tunnel
	gone   bool
	apps   []int // the applications' ends
	joined int   // streams whose end is awaited
}

func newFuzzed(t *testing.T, role h2.Role, own int, keys record.Result) *fuzzed {
	z := &fuzzed{clockwork: newClockwork(t)}
	z.tunnel = newTunnel(tunnelConfig{
		loop: z.loop, role: role, max: 10, ended: func(*tunnel) { z.gone = true },
		accept: func(s *Stream, _ Request) {
			in := &Incoming{stream: s}
			s.incoming = in
			in.timer.Run = func() { in.Refuse(503) }
			z.loop.After(&in.timer, answerTimeout)
			switch s.id % 6 {
			case 1:
				if s, err := in.Accept(Baggage{}); err == nil {
					z.join(s)
				}
			case 3:
				in.Refuse(401)
			}
		},
	}, own, shaken{keys: &keys})
	if role == h2.Client {
		for range 3 {
			z.request()
		}
	}
	return z
}

func (z *fuzzed) request() {
	s, err := z.tunnel.open(Request{}.fields())
	if err != nil {
		return
	}
	s.waiting = &Attempt{stream: s, tries: maxAttempts, done: func(s *Stream, err error) {
		switch {
		case err != nil:
		case s.id == 1:
			z.join(s)
		default:
			s.Reset()
		}
	}}
}

// join gives a stream an application that has sent something and reads nothing.
func (z *fuzzed) join(s *Stream) {
	app, inner := socketPair()
	_, _ = unix.Write(app, make([]byte, 1000))
	z.apps = append(z.apps, app)
	z.joined++
	s.Join(inner, func(relay.Result) { z.joined-- })
}

// FuzzTunnel has the peer of a tunnel say anything after its settings. However it goes, everything ends when the peer does.
func FuzzTunnel(f *testing.F) {
	for _, h := range hostile {
		p := h.bytes()
		f.Add(true, p[:min(len(p), 2000)])
		f.Add(false, p[:min(len(p), 2000)])
	}
	f.Add(false, frame(0x1, 0x4, 1, 0x88))
	f.Add(false, append(frame(0x1, 0x4, 1, 0x88), frame(0, 1, 1, 'x')...))
	f.Fuzz(func(t *testing.T, server bool, p []byte) {
		synctest.Test(t, func(t *testing.T) {
			own, peer := socketPair()
			keys := record.Result{}
			var say *record.Writer
			keys.Reader, say = oneWay(t, 1)
			_, keys.Writer = oneWay(t, 2)
			role := h2.Client
			p := append(frame(0x4, 0, 0), p[:min(len(p), 64<<10)]...)
			if server {
				role = h2.Server
				p = append([]byte(http2.ClientPreface), p...)
			}
			z := newFuzzed(t, role, own, keys)
			z.settle()
			for len(p) > 0 {
				slot := make([]byte, record.SlotLen)
				n := copy(slot[record.HeaderLen:], p[:min(len(p), record.MaxPlaintext)])
				p = p[n:]
				_, _ = unix.Write(peer, slot[:say.Seal(slot, n)])
				z.settle()
			}
			_ = unix.Close(peer)
			for _, app := range z.apps {
				_ = unix.Close(app)
			}
			z.pass(time.Minute)
			if !z.gone || z.joined != 0 || len(z.tunnel.streams) != 0 {
				t.Errorf("after the peer has gone: tunnel gone %v, %d of its connections go on, %d streams", z.gone, z.joined, len(z.tunnel.streams))
			}
		})
	})
}
