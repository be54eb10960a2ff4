package h1

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// clockwork is a loop in fake time, with a connection whose other end is the test's.
type clockwork struct {
	t    *testing.T
	loop *loop.Loop
	pipe *pipe.Pipe
	fd   int // the test's
}

// inFakeTime runs a test in a bubble of synctest.
func inFakeTime(t *testing.T, test func(*clockwork)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, err := loop.Manual()
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &clockwork{t: t, loop: l, pipe: pipe.OverSocket(l, fds[0], nil), fd: fds[1]}
		test(c)
		_ = unix.Close(c.fd)
		c.pipe.Reset()
		c.pass(2 * lingerTime)
		l.Close()
	})
}

// pass lets time pass.
func (c *clockwork) pass(d time.Duration) {
	end := time.Now().Add(d)
	for {
		wait := c.loop.Turn()
		left := time.Until(end)
		switch {
		case wait == 0:
		case left <= 0:
			return
		case wait < 0 || wait > left:
			time.Sleep(left)
		default:
			time.Sleep(wait)
		}
	}
}

func (c *clockwork) say(text string) {
	c.t.Helper()
	if _, err := unix.Write(c.fd, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
	c.pass(0)
}

// hear returns what has come, with "|" at the end if that has come too.
func (c *clockwork) hear() string {
	c.t.Helper()
	var all strings.Builder
	p := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return all.String()
		case err != nil || n == 0:
			return all.String() + "|"
		}
		all.Write(p[:n])
		c.pass(0)
	}
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
		c.pass(59 * time.Minute)
		if got := c.hear(); got != "" {
			t.Errorf("got %q before the hour is over", got)
		}
		c.pass(2 * time.Minute)
		if got := c.hear(); got != "|" {
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
		c.pass(drainTime / 2)
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.pass(time.Hour)
		if !h.ended || h.err != nil {
			t.Fatalf("the request came: %v, %v", h.ended, h.err)
		}
		h.client.Respond(&exchange.Response{Status: 204})
		h.client.End(nil)
		c.pass(0)
		if got := c.hear(); got != "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n|" {
			t.Errorf("got %q", got)
		}
	})
	inFakeTime(t, func(c *clockwork) {
		s := Serve(c.pipe, ServerConfig{})
		c.pass(time.Minute)
		s.Drain()
		c.pass(0)
		if got := c.hear(); got != "|" {
			t.Errorf("a connection that was idle says %q", got)
		}
	})
}

func TestHeadsThatDoNotComeInTime(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		c.serve()
		c.pass(time.Minute)
		for range 9 { // a byte a second doesn't help
			c.say("G")
			c.pass(time.Second)
		}
		if got := c.hear(); got != "" {
			t.Errorf("got %q", got)
		}
		c.pass(2 * time.Second)
		if got := c.hear(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.HasSuffix(got, "|") {
			t.Errorf("got %q", got)
		}
	})
}

func TestBodiesThatDoNotGoOn(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
		for range 5 {
			c.say("x")
			c.pass(stallTime - time.Second)
		}
		if got := c.hear(); got != "" || h.err != nil {
			t.Errorf("got %q, %v while it goes on", got, h.err)
		}
		c.pass(2 * time.Second)
		if got := c.hear(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || h.err == nil {
			t.Errorf("got %q, %v", got, h.err)
		}
	})
}

func TestClientsThatDoNotReadTheirAnswer(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.pass(10 * stallTime) // for an answer one may wait for ever
		if got := c.hear(); got != "" || h.err != nil {
			t.Fatalf("got %q, %v before there is an answer", got, h.err)
		}
		h.client.Respond(&exchange.Response{Status: 200, Length: exchange.UnknownLength})
		for range 64 {
			h.client.Data(make([]byte, 16<<10))
		}
		c.pass(stallTime - time.Second)
		_, _ = unix.Read(c.fd, make([]byte, 200_000)) // now it does, once
		c.pass(2 * time.Second)
		if h.err != nil {
			t.Fatalf("cut although it reads: %v", h.err)
		}
		c.pass(2*stallTime + time.Second)
		if h.err == nil {
			t.Error("it is still waited for")
		}
	})
}

func TestClientsThatEndAndWait(t *testing.T) {
	inFakeTime(t, func(c *clockwork) {
		h := c.serve()
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
		c.pass(partedTime - time.Second)
		if h.err != nil {
			t.Fatal(h.err)
		}
		c.pass(2 * time.Second)
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
		c.pass(stallTime - time.Second)
		if a.err != nil {
			t.Fatal(a.err)
		}
		c.pass(stallTime)
		if !errors.Is(a.err, errServerStalled) {
			t.Errorf("the client hears %v", a.err)
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
