package h2c

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// A client whose windows stay closed has answers held for it, on each of many streams, however alive it is. It isn't waited for any longer than one that
// doesn't read its connection.
func TestStreamsWhoseWindowStaysClosedAreReset(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		alive := func(d time.Duration) {
			for ; d > 0; d -= 30 * time.Second {
				c.Pass(min(d, 30*time.Second))
				_ = c.WritePing(true, [8]byte{})
				c.send()
				c.Hear()
			}
		}
		answer := func(id uint32) *local {
			c.ask(id)
			c.Pass(0)
			c.last.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
			return c.last
		}
		c.serve()
		c.greet()
		_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.send()
		silent, sips, stalled, ended := answer(1), answer(3), answer(5), answer(7)
		for _, l := range []*local{sips, stalled, ended} {
			l.client.Data(make([]byte, 1000))
		}
		ended.client.End(nil)
		for range 4 {
			alive(stallTime - time.Minute)
			_ = c.WriteWindowUpdate(3, 1)
			c.send()
			c.Pass(0)
		}
		if !errors.Is(stalled.err, errStalled) {
			t.Errorf("the server of the stalled stream hears %v", stalled.err)
		}
		if silent.err != nil || sips.err != nil {
			t.Errorf("the others' hear %v, %v", silent.err, sips.err)
		}
		for _, l := range []*local{silent, sips} {
			l.client.End(nil)
		}
		_ = c.WriteWindowUpdate(3, 1000)
		c.send()
		c.Pass(59 * time.Minute)
		if c.closed {
			t.Error("the connection was closed")
		}
		c.Pass(10 * time.Minute) // which it is of old age, if no stream is left
		if !c.closed {
			t.Error("the connection has streams for ever")
		}
	})
}
