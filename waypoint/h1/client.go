package h1

import (
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// ClientConfig makes Clients. The functions are called on the loop.
type ClientConfig struct {
	Free func(*Client) // the answer is complete, and the connection takes another exchange
	Gone func(*Client) // the connection takes no more exchanges; called once, not within Handle. It may be within an exchange
}

// Client is a connection to a server, for one exchange at a time: the next may begin when Free was called. Handle is its Handler.
type Client struct {
	cfg  ClientConfig
	pipe *pipe.Pipe

	call *call // under way, or nil
	body body  // of the answer
	seen int   // bytes of a head that were looked at

	free    bool // takes an exchange
	gone    bool // Gone was called
	closing bool
	over    bool
	linger  loop.Timer
	sent    time.Time // the pipe has last taken something, or begun to wait
	clock   loop.Timer
	watched bool // the clock is set
}

var errServerStalled = errors.New("the server doesn't read the request")

// NewClient has a Client use the pipe. It is free.
func NewClient(p *pipe.Pipe, cfg ClientConfig) *Client {
	c := &Client{cfg: cfg, pipe: p, free: true}
	c.linger.Run, c.clock.Run = c.reset, c.tick
	p.Start(c)
	return c
}

// Close lets go of the connection when the exchange that runs has ended, and at once if there is none.
func (c *Client) Close() {
	c.lose()
	if c.call == nil {
		c.close()
	}
}

// Handle implements exchange.Handler. The connection must be free.
func (c *Client) Handle(req *exchange.Request, client exchange.Client) exchange.Server {
	x := &call{conn: c, client: client, req: req}
	x.answer.Fields = x.space[:0]
	if !c.free {
		x.failSoon(&exchange.NotProcessed{Err: errors.New("the connection isn't free")})
		return x
	}
	c.free = false
	c.watch(stallTime)
	if err := checkRequest(req); err != nil {
		c.call = x
		x.failSoon(&exchange.Unsayable{Status: 500, Err: err})
		return x
	}
	b := newBuffer()
	defer b.free()
	head, err := b.requestHead(req)
	if err != nil {
		c.call = x
		x.failSoon(&exchange.Unsayable{Status: 500, Err: err})
		return x
	}
	c.call = x
	switch {
	case req.Upgrade != "":
		x.kind, x.sent = raw, true
	case inChunks(req):
		x.kind = chunked
	default:
		x.left = req.Length
	}
	x.write(head)
	return x
}

// checkRequest looks at what parseRequest guarantees: a filter may have changed it, or another codec let it in.
func checkRequest(req *exchange.Request) error {
	if !exchange.ValidToken(req.Method) || !exchange.ValidAuthority(req.Authority) || !(exchange.ValidPath(req.Path) || req.Path == "*") {
		return fmt.Errorf("a request that HTTP/1.1 can't say: %q %q %q", req.Method, req.Authority, req.Path)
	}
	return nil
}

// Receive implements pipe.User.
func (c *Client) Receive(p []byte, end bool) (taken int) {
	for more := true; more; {
		var n int
		n, more = c.step(p[taken:])
		taken += n
	}
	if end {
		taken += c.serverEnd(p[taken:])
	}
	return taken
}

// step takes a head, or what is there of a body, and tells whether there may be more to take.
func (c *Client) step(p []byte) (n int, more bool) {
	switch x := c.call; {
	case x == nil:
		if len(p) > 0 && !c.closing && !c.over {
			c.drop() // an answer that nobody asked for
		}
		return len(p), false
	case !x.answered:
		return c.readHead(x, p)
	}
	return c.readBody(c.call, p)
}

func (c *Client) readHead(x *call, p []byte) (n int, more bool) {
	n = headEnd(p, c.seen)
	x.begun = x.begun || len(p) > 0
	switch {
	case n > maxHead || (n == 0 && len(p) > maxHead):
		x.broken(badAnswer("its head is too long"))
		return len(p), false
	case n == 0 && bareLine(p, c.seen):
		x.broken(badAnswer("a line doesn't end in CRLF"))
		return len(p), false
	case n == 0:
		c.seen = len(p)
		return 0, false
	}
	c.seen = 0
	if err := x.head(p[:n]); err != nil {
		x.broken(badAnswer("%w", err))
		return len(p), false
	}
	return n, true
}

func (c *Client) readBody(x *call, p []byte) (n int, more bool) {
	n, content, err := c.body.next(p, exchange.Window-x.given)
	if err != nil {
		x.broken(badAnswer("%w", err))
		return len(p), false
	}
	if len(content) > 0 {
		x.given += len(content)
		x.client.Data(content)
	}
	if c.body.done && c.call == x {
		x.finish(c.body.trailers, len(p) > n)
	}
	return n, n > 0
}

// serverEnd takes the server's end after all that came before it but p, and returns how much of p is of no use any more.
func (c *Client) serverEnd(p []byte) int {
	x := c.call
	switch {
	case c.over:
	case x == nil:
		c.lose()
		if c.pipe.Waiting() > 0 {
			c.reset()
			return len(p)
		}
		c.close()
		c.end()
	case !x.answered && !x.begun:
		x.broken(exchange.ErrNoAnswer)
	case !x.answered || (c.body.kind != untilClose && c.body.kind != raw):
		x.broken(badAnswer("it isn't complete"))
	case len(p) > 0: // it waits for the client to read
		return 0
	default:
		x.finish(nil, false)
	}
	return len(p)
}

// release says that the connection takes another exchange, if it does.
func (c *Client) release() {
	if !c.gone && !c.over {
		c.free = true
		c.cfg.Free(c)
	}
}

// lose says that the connection takes no more exchanges.
func (c *Client) lose() {
	c.free = false
	if !c.gone {
		c.gone = true
		c.cfg.Gone(c)
	}
}

// drop breaks a connection that is of no use any more.
func (c *Client) drop() {
	c.lose()
	c.reset()
}

// close ends our direction, and gives the server a while to end its own.
func (c *Client) close() {
	if !c.closing && !c.over {
		c.closing = true
		c.pipe.End()
		c.pipe.Loop().After(&c.linger, lingerTime)
		c.pipe.Resume()
	}
}

func (c *Client) reset() {
	if !c.over {
		c.pipe.Reset()
		c.end()
	}
}

func (c *Client) end() {
	c.over = true
	c.pipe.Loop().Stop(&c.linger)
	c.pipe.Loop().Stop(&c.clock)
}

// watch looks after a while whether the server still reads, while there are exchanges.
func (c *Client) watch(after time.Duration) {
	if !c.watched {
		c.watched = true
		c.pipe.Loop().After(&c.clock, after)
	}
}

func (c *Client) tick() {
	c.watched = false
	stalled := c.pipe.Loop().Now().Sub(c.sent)
	switch {
	case c.call == nil:
	case c.pipe.Waiting() == 0:
		c.watch(stallTime)
	case stalled < stallTime:
		c.watch(stallTime - stalled)
	default:
		c.call.broken(errServerStalled)
	}
}

// Sent implements pipe.User.
func (c *Client) Sent() {
	c.sent = c.pipe.Loop().Now()
	if x := c.call; x != nil {
		x.away = true
		x.release()
	}
}

// Broken implements pipe.User.
func (c *Client) Broken(err error) {
	if c.over {
		return
	}
	c.end()
	x := c.call
	if x == nil {
		c.lose()
		return
	}
	x.broken(x.explain(err))
}
