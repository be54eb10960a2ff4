package serve

import (
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// However little a mirror says, its copy costs nothing after a quarter of a minute.
func TestACopyIsGivenUpAfterAWhile(t *testing.T) {
	for name, said := range map[string]string{
		"that says nothing": "", "whose answer begins": "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe", "whose answer never ends": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run("one "+name, func(t *testing.T) {
			onloop.InFakeTime(t, func(c *onloop.Clockwork) func() {
				h := &Handler{cfg: Config{Worker: &worker.Worker{Loop: c.Loop}}}
				p := pipe.OverSocket(c.Loop, c.FD, nil)
				server := h1.NewClient(p, h1.ClientConfig{Free: func(*h1.Client) {}, Gone: func(*h1.Client) {}})
				copied := h.copy(exchange.Request{Version: exchange.HTTP11, Method: "POST", Authority: "web", Path: "/", Scheme: "http"}, []byte("hello"), nil)
				c.Pass(10 * time.Second) // to connect takes of the same time
				copied.connected(server.Handle, nil)
				c.Pass(0)
				if got := c.Hear(); !strings.HasPrefix(got, "POST / HTTP/1.1\r\n") || !strings.HasSuffix(got, "\r\n\r\nhello") {
					t.Errorf("the mirror hears %q", got)
				}
				c.Say(said)
				c.Pass(5*time.Second - time.Millisecond)
				if got := c.Hear(); got != "" || h.mirrors != 1 {
					t.Errorf("too early: %q, %d copies under way", got, h.mirrors)
				}
				c.Pass(time.Millisecond)
				if got := c.Hear(); got != "|" || h.mirrors != 0 {
					t.Errorf("the mirror hears %q, %d copies under way", got, h.mirrors)
				}
				return p.Reset
			})
		})
	}
}
