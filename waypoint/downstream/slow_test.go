package downstream

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// A client may take its time on purpose, so that what it says is passed on before it can be taken for a request.
func TestWhatMayStillBecomeARequestIsTakenForOne(t *testing.T) {
	for says, want := range map[string]Protocol{"G": HTTP1, "GET /a HT": HTTP1, "\r\n": HTTP1, "PRI * HTTP/2.0\r\n": HTTP1, "\x16\x03\x01\x00": Opaque} {
		onloop.InFakeTime(t, func(c *onloop.Clockwork) func() {
			var found []Found
			p := pipe.OverSocket(c.Loop, c.FD, nil)
			Detect(p, Auto, func(f Found) { found = append(found, f) }, func(err error) { t.Error(err) })
			c.Say(says)
			c.Pass(beginTime - time.Second)
			if len(found) > 0 {
				t.Errorf("%q is found %+v at once", says, found)
			}
			c.Pass(2 * time.Second)
			if len(found) != 1 || found[0].Protocol != want && !(want == Opaque && found[0].Protocol == Encrypted) {
				t.Errorf("%q is found %+v, want %v", says, found, want)
			}
			return p.Reset
		})
	}
}
