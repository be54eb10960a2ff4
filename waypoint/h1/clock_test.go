package h1

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// inFakeTime runs a test with a connection in fake time.
func inFakeTime(t *testing.T, test func(*clockwork)) {
	t.Helper()
	onloop.InFakeTime(t, func(c *onloop.Clockwork) func() {
		p := pipe.OverSocket(c.Loop, c.FD, nil)
		test(&clockwork{c, p})
		return p.Reset
	})
}

type clockwork struct {
	*onloop.Clockwork
	pipe *pipe.Pipe
}

// held is a server that keeps what it is asked.
type held struct {
	sink
	client exchange.Client
	err    error
	ended  bool
}

func (h *held) Abort(err error)      { h.err = err }
func (h *held) End([]exchange.Field) { h.ended = true }
func (h *held) consume(p []byte)     { h.client.Consumed(len(p)) }
func (h *held) Data(p []byte)        { h.consume(p) }
func (c *clockwork) serve() (last *held) {
	last = new(held)
	Serve(c.pipe, ServerConfig{Scheme: "http", Handle: func(_ *exchange.Request, client exchange.Client) exchange.Server {
		*last = held{client: client}
		return last
	}})
	return last
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.Pass(59 * time.Minute)
		if got := c.Hear(); got != "" {
			t.Errorf("got %q before the hour is over", got)
		}
		c.Pass(2 * time.Minute)
		if got := c.Hear(); got != "|" {
			t.Errorf("got %q after an hour", got)
		}
	})
}

// A request that crosses with the wish to close is answered.
func TestDrainedConnectionsAnswerWhatIsOnItsWay(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := new(held)
		s := Serve(c.pipe, ServerConfig{Handle: func(_ *exchange.Request, client exchange.Client) exchange.Server {
			h.client = client
			return h
		}})
		s.Drain()
		c.Pass(drainTime / 2)
		c.Say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.Pass(time.Hour)
		if !h.ended || h.err != nil {
			t.Fatalf("the request came: %v, %v", h.ended, h.err)
		}
		h.client.Respond(&exchange.Response{Status: 204})
		h.client.End(nil)
		c.Pass(0)
		if got := c.Hear(); got != "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n|" {
			t.Errorf("got %q", got)
		}
	})
	inFakeTime(t, func(c *clockwork) {
		s := Serve(c.pipe, ServerConfig{})
		c.Pass(time.Minute)
		s.Drain()
		c.Pass(0)
		if got := c.Hear(); got != "|" {
			t.Errorf("a connection that was idle says %q", got)
		}
	})
}

func TestHeadsThatDoNotComeInTime(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.Pass(time.Minute)
		for range 9 { // a byte a second doesn't help
			c.Say("G")
			c.Pass(time.Second)
		}
		if got := c.Hear(); got != "" {
			t.Errorf("got %q", got)
		}
		c.Pass(2 * time.Second)
		if got := c.Hear(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.HasSuffix(got, "|") {
			t.Errorf("got %q", got)
		}
	})
}

func TestBodiesThatDoNotGoOn(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.Say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
		for range 5 {
			c.Say("x")
			c.Pass(stallTime - time.Second)
		}
		if got := c.Hear(); got != "" || h.err != nil {
			t.Errorf("got %q, %v while it goes on", got, h.err)
		}
		c.Pass(2 * time.Second)
		if got := c.Hear(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || h.err == nil {
			t.Errorf("got %q, %v", got, h.err)
		}
	})
}

func TestClientsThatDoNotReadTheirAnswer(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.Say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.Pass(10 * stallTime) // for an answer one may wait for ever
		if got := c.Hear(); got != "" || h.err != nil {
			t.Fatalf("got %q, %v before there is an answer", got, h.err)
		}
		h.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
		for range 64 {
			h.client.Data(make([]byte, 16<<10))
		}
		c.Pass(stallTime - time.Second)
		c.Sip(200_000) // now it does, once
		c.Pass(2 * time.Second)
		if h.err != nil {
			t.Fatalf("cut although it reads: %v", h.err)
		}
		c.Pass(2*stallTime + time.Second)
		if h.err == nil {
			t.Error("it is still waited for")
		}
	})
}

// Who sends one request after the other and reads no answer is read no further, until it does; and not waited for for ever.
func TestClientsThatAskAndDoNotRead(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		asked := 0
		Serve(c.pipe, ServerConfig{Scheme: "http", Handle: func(_ *exchange.Request, client exchange.Client) exchange.Server {
			h := &answering{client: client}
			asked++
			h.task.Run = h.answer
			c.Loop.Output(&h.task)
			return h
		}})
		const all = 3000 // whose answers are more than a socket takes
		for range all / 100 {
			c.Say(strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 100))
		}
		c.End()
		c.Pass(time.Second)
		if before := asked; before > all/2 {
			t.Errorf("%d of %d requests are answered though nobody reads", before, all)
		}
		c.Pass(stallTime - 2*time.Second)
		for range 100 {
			c.Hear()
			c.Pass(0)
		}
		if asked != all {
			t.Errorf("%d of %d requests are answered when all is read", asked, all)
		}
		if got := c.Hear(); got != "|" {
			t.Errorf("at the end %q", got)
		}
	})
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.Say("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
		h.client.Respond(&exchange.Response{Status: 200, Length: 1 << 20})
		h.client.Data(make([]byte, 1<<20))
		h.client.End(nil)
		c.Pass(3 * stallTime)
		if got := c.Hear(); !strings.HasSuffix(got, "|") {
			t.Error("a client that doesn't read is still waited for")
		}
	})
}

// answering answers at once, with a kilobyte.
type answering struct {
	sink
	client exchange.Client
	task   loop.Task
}

func (a *answering) answer() {
	a.client.Respond(&exchange.Response{Status: 200, Length: 1 << 10})
	a.client.Data(make([]byte, 1<<10))
	a.client.End(nil)
}

func TestClientsThatEndAndWait(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.Say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.End()
		c.Pass(partedTime - time.Second)
		if h.err != nil {
			t.Fatal(h.err)
		}
		c.Pass(2 * time.Second)
		if !errors.Is(h.err, errClientGone) {
			t.Errorf("the server hears %v", h.err)
		}
	})
}

func TestServersThatDoNotReadTheRequest(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		client := NewClient(c.pipe, ClientConfig{Free: func(*Client) {}, Gone: func(*Client) {}})
		var a asked
		server := client.Handle(&exchange.Request{Method: "POST", Authority: "a", Path: "/", Length: exchange.UnknownLength}, &a)
		for range 64 {
			server.Data(make([]byte, 16<<10))
		}
		c.Pass(stallTime - time.Second)
		if a.err != nil {
			t.Fatal(a.err)
		}
		c.Pass(stallTime)
		if !errors.Is(a.err, errServerStalled) {
			t.Errorf("the client hears %v", a.err)
		}
	})
}

// While its server doesn't take what a client has sent, it isn't for the client to go on.
func TestClientsWaitForServersThatTakeNothing(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		var last deaf
		Serve(c.pipe, ServerConfig{Scheme: "http", Handle: func(_ *exchange.Request, client exchange.Client) exchange.Server {
			last.client = client
			return &last
		}})
		c.Say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
		for range 16 {
			c.Say(strings.Repeat("x", exchange.Window/16))
			c.Pass(time.Second)
		}
		c.Pass(time.Hour)
		if got := c.Hear(); got != "" || last.err != nil || last.got != exchange.Window {
			t.Errorf("got %q; the server hears %v, of %d bytes", got, last.err, last.got)
		}
	})
}

// deaf takes nothing.
type deaf struct {
	held
	got int
}

func (d *deaf) Data(p []byte) { d.got += len(p) }

// A server that reads now and then isn't stalled.
func TestServersThatReadSlowlyAreGivenTime(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		client := NewClient(c.pipe, ClientConfig{Free: func(*Client) {}, Gone: func(*Client) {}})
		var a asked
		server := client.Handle(&exchange.Request{Method: "POST", Authority: "a", Path: "/", Length: exchange.UnknownLength}, &a)
		for range 5 {
			for range 64 {
				server.Data(make([]byte, 16<<10))
			}
			c.Pass(stallTime - time.Minute)
			if c.Hear() == "" || a.err != nil {
				t.Fatalf("the server hears nothing, the client %v", a.err)
			}
		}
	})
}

// asked is a client that keeps the error.
type asked struct {
	exchange.Client
	err error
}

func (a *asked) Abort(err error) { a.err = err }
func (a *asked) Consumed(int)    {}
