package h1

import (
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// answer is an exchange on a Server, as the side that answers sees it: the exchange.Client.
type answer struct {
	conn   *Server
	server exchange.Server
	req    exchange.Request
	space  [16]exchange.Field // of most requests

	given int // bytes of the request that the server hasn't consumed
	owed  int // bytes of the answer that we haven't said Consumed for

	keep      bool // the connection goes on
	expect    bool // the client may wait for 100 (Continue)
	responded bool
	none      bool // the answer has no body
	kind      kind // of body
	left      int64
}

func (a *answer) running() bool { return a.conn.answer == a }

// Inform implements exchange.Client.
func (a *answer) Inform(r *exchange.Response) {
	if !a.running() || a.responded || a.req.Version != exchange.HTTP11 { // RFC 9110 section 15.2
		return
	}
	a.expect = a.expect && r.Status != 100
	b := newBuffer()
	defer b.free()
	b.statusLine(r.Status)
	b.fields(r.Fields)
	if head, err := b.whole(); err == nil {
		a.conn.pipe.Write(head)
	}
}

// Respond implements exchange.Client.
func (a *answer) Respond(r *exchange.Response) {
	if !a.running() {
		return
	}
	b := newBuffer()
	defer b.free()
	b.statusLine(r.Status)
	b.fields(r.Fields)
	a.frame(b, r)
	head, err := b.whole()
	if err == nil && (r.Status < 200 || r.Status > 999) && a.kind != raw {
		err = badAnswer("its status is %d", r.Status)
	}
	if err != nil {
		a.fail(err)
		return
	}
	a.responded = true
	a.conn.noteWriting()
	a.conn.pipe.Write(head)
	if a.kind == raw {
		a.conn.body = body{kind: raw}
		a.conn.pipe.Resume()
	}
}

// frame says where the answer ends (RFC 9112 section 6), and whether the connection does.
func (a *answer) frame(b *buffer, r *exchange.Response) {
	switch {
	case r.Status == 101 && a.req.Upgrade != "":
		a.kind, a.keep = raw, false
		b.field("connection", "upgrade")
		b.field("upgrade", r.Upgrade)
		return
	case r.Status == 204 || r.Status < 200:
		a.none = true
	case r.Status == 304 || a.req.Method == "HEAD":
		a.none = true
		if r.Length >= 0 {
			b.number("content-length", r.Length)
		}
	case r.Length >= 0 && !(a.req.Version == exchange.HTTP11 && hasField(r.Fields, "trailer")):
		a.kind, a.left = byLength, r.Length
		b.number("content-length", r.Length)
	case a.req.Version == exchange.HTTP11:
		a.kind = chunked
		b.field("transfer-encoding", "chunked")
	default:
		a.kind, a.keep = untilClose, false
	}
	if a.expect && !a.conn.body.done { // whether the body will come nobody knows: RFC 9110 section 10.1.1
		a.keep = false
	}
	a.keep = a.keep && !a.conn.draining
	switch {
	case !a.keep:
		b.field("connection", "close")
	case a.req.Version == exchange.HTTP10:
		b.field("connection", "keep-alive")
	}
}

// Data implements exchange.Client.
func (a *answer) Data(p []byte) {
	if !a.running() || len(p) == 0 {
		return
	}
	a.conn.noteWriting()
	switch {
	case a.none:
	case a.kind == byLength:
		if a.left -= int64(len(p)); a.left < 0 {
			a.fail(badAnswer("it is longer than it says"))
			return
		}
		a.conn.pipe.Write(p)
	case a.kind == chunked:
		writeChunk(a.conn.pipe, p)
	default:
		a.conn.pipe.Write(p)
	}
	a.owed += len(p)
	a.release()
}

// release says Consumed, unless too much waits for the client.
func (a *answer) release() {
	if a.owed > 0 && a.conn.pipe.Waiting() <= lowWater {
		n := a.owed
		a.owed = 0
		a.server.Consumed(n)
	}
}

// End implements exchange.Client.
func (a *answer) End(trailers []exchange.Field) {
	if !a.running() {
		return
	}
	switch {
	case !a.responded:
		a.fail(badAnswer("there is none"))
		return
	case a.none:
	case a.kind == byLength && a.left > 0:
		a.fail(badAnswer("it is shorter than it says"))
		return
	case a.kind == chunked:
		if err := writeLastChunk(a.conn.pipe, trailers); err != nil {
			a.fail(err)
			return
		}
	}
	a.conn.finish(a.keep)
}

// Abort implements exchange.Client.
func (a *answer) Abort(error) {
	if !a.running() {
		return
	}
	if a.responded {
		a.conn.answer = nil
		a.conn.reset()
		return
	}
	reason, connection := "no answer from the server\n", ""
	if a.req.Method == "HEAD" {
		reason = ""
	}
	if a.keep = a.keep && a.conn.body.done && !a.conn.draining; !a.keep {
		connection = "connection: close\r\n"
	}
	a.conn.pipe.Write(plainAnswer(502, reason, connection))
	a.conn.finish(a.keep)
}

// fail ends an exchange whose answer is against the rules, for both sides.
func (a *answer) fail(err error) {
	a.Abort(err)
	a.server.Abort(err)
}

// Consumed implements exchange.Client.
func (a *answer) Consumed(n int) {
	starved := a.given == exchange.Window
	a.given -= n
	if starved && a.running() {
		a.conn.pipe.Resume()
	}
}
