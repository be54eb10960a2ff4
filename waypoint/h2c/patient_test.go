package h2c

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Clients whose server hangs give up when their time is over, as many at once as there may be. That isn't the flood of those who ask for the sake of
// giving up.
func TestGivingUpAfterAWhileIsNoFlood(t *testing.T) {
	for _, test := range []struct {
		waits time.Duration
		flood bool
	}{{patientTime, false}, {patientTime / 2, true}} {
		inFakeTime(t, func(c *clockwork) {
			c.serve()
			c.greet()
			c.Pass(2 * tickTime)
			c.Hear()
			id := uint32(1)
			for range 8 {
				first := id
				for ; id < first+2*190; id += 2 {
					c.ask(id)
				}
				c.Pass(test.waits)
				for ; first < id; first += 2 {
					_ = c.WriteRSTStream(first, http2.ErrCodeCancel)
				}
				c.send()
				c.Pass(0)
				c.Hear()
			}
			c.Pass(2 * lingerTime)
			if c.closed != test.flood {
				t.Errorf("after waiting for %v the connection is closed: %v", test.waits, c.closed)
			}
		})
	}
}
