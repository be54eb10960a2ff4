package h1

import (
	"fmt"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// call is an exchange on a Client, as the side that asks sees it: the exchange.Server.
type call struct {
	conn   *Client
	client exchange.Client
	req    *exchange.Request
	answer exchange.Response
	space  [16]exchange.Field // of most answers

	kind kind  // of the request's body
	left int64 // of it, if it is by length
	sent bool  // the request is complete
	away bool  // something of it has left

	written int // bytes of the request that were given to the pipe
	owed    int // bytes of the request that we haven't said Consumed for
	given   int // bytes of the answer that the client hasn't consumed

	begun    bool // something of an answer came
	answered bool // its head did
	interim  int
	reusable bool
	fail     loop.Task
	aborted  bool
}

func (x *call) running() bool { return x.conn.call == x }

// write gives bytes to the pipe, and notes whether it has passed some on.
func (x *call) write(p []byte) {
	x.conn.noteWriting()
	x.conn.pipe.Write(p)
	x.written += len(p)
	x.away = x.away || x.conn.pipe.Waiting() < x.written
}

// noteWriting notes when the pipe begins to have something that waits.
func (c *Client) noteWriting() {
	if c.pipe.Waiting() == 0 {
		c.sent = c.pipe.Loop().Now()
	}
}

// Data implements exchange.Server.
func (x *call) Data(p []byte) {
	if !x.running() || len(p) == 0 {
		return
	}
	switch x.kind {
	case byLength:
		if x.left -= int64(len(p)); x.left < 0 {
			x.broken(fmt.Errorf("the request's body is longer than it says"))
			return
		}
		x.write(p)
	case chunked:
		x.conn.noteWriting()
		writeChunk(x.conn.pipe, p)
		x.away = true
	default:
		x.write(p)
	}
	x.owed += len(p)
	x.release()
}

// release says Consumed, unless too much waits for the server.
func (x *call) release() {
	if x.owed > 0 && !x.sent && x.conn.pipe.Waiting() <= lowWater {
		n := x.owed
		x.owed = 0
		x.client.Consumed(n)
	}
}

// End implements exchange.Server.
func (x *call) End(trailers []exchange.Field) {
	if !x.running() {
		return
	}
	switch {
	case x.kind == byLength && x.left > 0:
		x.broken(fmt.Errorf("the request's body is shorter than it says"))
		return
	case x.kind == raw:
		x.conn.pipe.End()
	case x.kind == chunked:
		if err := writeLastChunk(x.conn.pipe, trailers); err != nil {
			x.broken(err)
			return
		}
	}
	x.sent = true
}

// Abort implements exchange.Server.
func (x *call) Abort(error) {
	x.aborted = true
	if x.running() {
		x.conn.call = nil
		x.conn.drop()
	}
}

// Consumed implements exchange.Server.
func (x *call) Consumed(n int) {
	starved := x.given == exchange.Window
	x.given -= n
	if starved && x.running() {
		x.conn.pipe.Resume()
	}
}

// head takes the head of an answer, or of an interim one.
func (x *call) head(p []byte) error {
	r := &x.answer
	r.Fields = r.Fields[:0]
	var f framing
	if err := parseResponse(p, r, &f); err != nil {
		return err
	}
	if r.Status < 200 && r.Status != 101 {
		if x.interim++; x.interim > maxInterim {
			return fmt.Errorf("more than %d interim answers", maxInterim)
		}
		r.Length = 0
		x.client.Inform(r)
		x.answer = exchange.Response{}
		return nil
	}
	x.reusable = !f.close && (r.Version == exchange.HTTP11 || f.keepAlive)
	switch {
	case r.Status == 101 && (x.req.Upgrade == "" || r.Upgrade == ""):
		return fmt.Errorf("status 101 that nobody asked for")
	case r.Status == 101:
		r.Length, x.reusable, x.sent = exchange.UnknownLength, false, false
		x.conn.body = body{kind: raw}
	case r.Status == 204 || r.Status == 304 || x.req.Method == "HEAD":
		x.conn.body = body{done: true}
	default:
		x.conn.body = newBody(r.Length, f.chunked)
		x.reusable = x.reusable && x.conn.body.kind != untilClose
	}
	x.answered = true
	x.client.Respond(r)
	return nil
}

// finish is the end of a complete answer. The connection is used again if nothing on it is left of this exchange.
func (x *call) finish(trailers []exchange.Field, surplus bool) {
	c := x.conn
	c.call = nil
	switch {
	case !x.sent:
		c.drop()
	case !x.reusable || surplus || c.gone:
		c.lose()
		c.close()
	}
	c.release()
	x.client.End(trailers)
}

// broken ends the exchange by the server's fault, or for want of a connection.
func (x *call) broken(err error) {
	c := x.conn
	c.call = nil
	c.drop()
	x.client.Abort(err)
}

// failSoon ends an exchange that doesn't even begin, when Handle has returned.
func (x *call) failSoon(err error) {
	x.fail.Run = func() {
		if x.aborted {
			return
		}
		if x.running() {
			x.conn.call = nil
			x.conn.release()
		}
		x.client.Abort(err)
	}
	x.conn.pipe.Loop().Output(&x.fail)
}

// explain says what a broken connection means for the request.
func (x *call) explain(err error) error {
	switch {
	case !x.away:
		return &exchange.NotProcessed{Err: err}
	case !x.begun:
		return fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err)
	}
	return fmt.Errorf("the server broke off: %w", err)
}
