package h2c

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// clockwork is a connection in fake time, whose peer writes frames.
type clockwork struct {
	*onloop.Clockwork
	*http2.Framer
	out    bytes.Buffer // of the framer
	pipe   *pipe.Pipe
	last   *local // that was asked
	closed bool
}

func inFakeTime(t *testing.T, test func(*clockwork)) {
	t.Helper()
	onloop.InFakeTime(t, func(work *onloop.Clockwork) func() {
		c := &clockwork{Clockwork: work, pipe: pipe.OverSocket(work.Loop, work.FD, nil)}
		c.Framer = http2.NewFramer(&c.out, nil)
		test(c)
		return c.pipe.Reset
	})
}

// send sends what the framer has written.
func (c *clockwork) send() {
	c.T.Helper()
	c.Say(c.out.String())
	c.out.Reset()
}

func (c *clockwork) serve() {
	Serve(c.pipe, ServerConfig{Closed: func() { c.closed = true }, Handle: func(req *exchange.Request, client exchange.Client) exchange.Server {
		c.last = &local{req: req, client: client, answer: func(*local) {}}
		return c.last
	}})
}

// ask sends a request on a stream.
func (c *clockwork) ask(id uint32) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "a"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	c.send()
}

func (c *clockwork) greet() {
	c.out.WriteString(http2.ClientPreface)
	_ = c.WriteSettings()
	c.send()
}

func TestPeersThatDoNotGreet(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.Say("PRI * HTTP")
		c.Pass(greetTime - time.Second)
		if got := c.Hear(); got == "" || strings.HasSuffix(got, "|") {
			t.Errorf("got %q", got)
		}
		c.Pass(2 * time.Second)
		if got := c.Hear(); !strings.HasSuffix(got, "|") {
			t.Errorf("got %q", got)
		}
		c.Pass(2 * lingerTime)
		if !c.closed {
			t.Error("the connection isn't over")
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.greet()
		c.Pass(30 * time.Minute)
		c.ask(1)
		for range 180 { // an answer may take as long as it does, if the client lives
			c.Pass(time.Minute)
			_ = c.WritePing(true, [8]byte{})
			c.send()
		}
		if c.closed || c.last.err != nil {
			t.Fatalf("closed while there is an exchange: %v", c.last.err)
		}
		c.last.client.Respond(&exchange.Response{Status: 204})
		c.last.client.End(nil)
		c.Pass(59 * time.Minute)
		if got := c.Hear(); strings.HasSuffix(got, "|") {
			t.Errorf("closed before the hour is over: %q", got)
		}
		c.Pass(6 * time.Minute)
		if got := c.Hear(); !strings.HasSuffix(got, "|") {
			t.Errorf("got %q after more than an hour", got)
		}
	})
}

// A peer whose machine has died says nothing any more, and what is sent to it is lost without a word.
func TestDeadPeersAreFoundOutWhileSomethingIsWaitedFor(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.greet()
		c.ask(1)
		c.Pass(serverPingTime + answerTime - time.Second)
		if c.last.err != nil {
			t.Fatalf("given up early: %v", c.last.err)
		}
		c.Pass(2 * time.Second)
		if !errors.Is(c.last.err, errDead) || !c.closed {
			t.Errorf("the server hears %v, closed %v", c.last.err, c.closed)
		}
	})
}

func TestPeersThatDoNotRead(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.greet()
		c.Pass(20 * time.Minute)
		_ = c.WriteWindowUpdate(0, 1<<30)
		_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		c.ask(1)
		c.last.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
		for range 64 {
			c.last.client.Data(make([]byte, 16<<10))
		}
		c.Pass(stallTime - time.Second)
		c.Sip(200_000)
		c.Pass(2 * time.Second)
		if c.last.err != nil {
			t.Fatalf("cut although it reads: %v", c.last.err)
		}
		c.Pass(2*stallTime + time.Second)
		if !errors.Is(c.last.err, errStalled) || !c.closed {
			t.Errorf("the server hears %v", c.last.err)
		}
	})
}

// Heads go whatever the windows are, so a client that asks on and on and reads none of them is read no further, until it does.
func TestClientsThatAskAndDoNotRead(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		const all = 1000
		asked := 0
		Serve(c.pipe, ServerConfig{MaxStreams: all, Handle: func(req *exchange.Request, client exchange.Client) exchange.Server {
			asked++
			answer := &loop.Task{Run: func() {
				client.Respond(&exchange.Response{Status: 302, Fields: []exchange.Field{{Name: "etag", Value: strings.Repeat("x", 4<<10)}}})
				client.End(nil)
			}}
			c.Loop.Output(answer)
			return &local{req: req, client: client, answer: func(*local) {}}
		}})
		c.greet()
		for i := range all {
			c.ask(uint32(2*i + 1))
		}
		c.Pass(time.Second)
		if asked > all/2 {
			t.Errorf("%d of %d requests are answered though nobody reads", asked, all)
		}
		for range 100 {
			c.Hear()
			c.Pass(0)
		}
		if asked != all {
			t.Errorf("%d of %d requests are answered when all is read", asked, all)
		}
	})
}

// What a peer may waste is renewed as time passes: pings that would be too many at once are not in an hour.
func TestBudgetsAreRenewed(t *testing.T) {
	for _, pause := range []time.Duration{0, tickTime} {
		inFakeTime(t, func(c *clockwork) {
			c.serve()
			c.greet()
			for range 15 {
				for range 100 {
					_ = c.WritePing(false, [8]byte{1})
				}
				c.send()
				c.Hear()
				c.Pass(pause)
			}
			c.Pass(2 * lingerTime)
			if c.closed != (pause == 0) {
				t.Errorf("with pauses of %v: closed %v", pause, c.closed)
			}
		})
	}
}
