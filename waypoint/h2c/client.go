package h2c

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// ClientConfig makes Clients. The functions are called on the loop.
type ClientConfig struct {
	Room func(*Client) // there is room for more exchanges than there was
	Gone func(*Client) // the connection takes no more exchanges; called once, not within Handle. It may have some that run
}

// Client is a connection to a server. Handle is its Handler.
type Client struct {
	conn
	cfg  ClientConfig
	gone bool
}

var errClosed = errors.New("the connection takes no more requests")

// NewClient has a Client use the pipe. It may be used at once, as if the server allowed 100 exchanges, until that says what it does.
func NewClient(p *pipe.Pipe, cfg ClientConfig) *Client {
	c := &Client{cfg: cfg}
	c.start(c, p, limits(h2.Client, 0))
	return c
}

// Room returns how many more exchanges the connection takes now.
func (c *Client) Room() int {
	if c.gone || c.closing || c.over {
		return 0
	}
	return max(0, c.core.Limit()-c.core.Active())
}

// Running returns how many exchanges the connection has.
func (c *Client) Running() int { return len(c.streams) }

// Close lets go of the connection when the exchanges that run have ended.
func (c *Client) Close() {
	c.lose()
	c.core.Shutdown()
	c.flush()
}

// Handle implements exchange.Handler. Without room it fails with exchange.NotProcessed.
func (c *Client) Handle(req *exchange.Request, client exchange.Client) exchange.Server {
	x := &call{stream: stream{conn: &c.conn, to: client}, client: client, req: req, length: req.Length}
	fields, err := c.requestFields(req)
	if err != nil {
		status := 500
		if req.Upgrade != "" {
			status = 501
		}
		x.failSoon(&exchange.Unsayable{Status: status, Err: err})
		return x
	}
	id, err := uint32(0), error(errClosed)
	if !c.over && !c.closing {
		id, err = c.core.Open(fields, req.Length == 0)
	}
	switch {
	case errors.Is(err, h2.ErrHeaderLimit):
		x.failSoon(&exchange.Unsayable{Status: 431, Err: err})
	case err != nil:
		x.failSoon(&exchange.NotProcessed{Err: err})
	default:
		x.id, x.finished, x.call = id, req.Length == 0, x
		c.add(&x.stream)
		x.answer.Fields = x.space[:0]
		c.flush()
	}
	return x
}

// requestFields makes a head in the space of the connection.
func (c *conn) requestFields(req *exchange.Request) ([]hpack.HeaderField, error) {
	if req.Upgrade != "" {
		return nil, fmt.Errorf("it asks for %s, which servers of HTTP/2 aren't asked for", req.Upgrade)
	}
	if !exchange.ValidToken(req.Method) || !exchange.ValidAuthority(req.Authority) || !(exchange.ValidPath(req.Path) || req.Path == "*") {
		return nil, fmt.Errorf("a request that HTTP/2 can't say: %q %q %q", req.Method, req.Authority, req.Path)
	}
	fields := append(c.fields[:0],
		hpack.HeaderField{Name: ":method", Value: req.Method},
		hpack.HeaderField{Name: ":scheme", Value: req.Scheme},
		hpack.HeaderField{Name: ":path", Value: req.Path})
	if req.Authority != "" {
		fields = append(fields, hpack.HeaderField{Name: ":authority", Value: req.Authority})
	}
	fields, err := appendFields(fields, req.Fields)
	if err != nil {
		return nil, err
	}
	if req.Length > 0 {
		fields = appendLength(fields, req.Length)
	}
	c.fields = fields[:0]
	return fields, nil
}

// event implements role.
func (c *Client) event(ev h2.Event) {
	if ev.Kind == h2.EventSettings {
		c.cfg.Room(c)
		return
	}
	err := &exchange.NotProcessed{Err: errors.New("the server is going away")}
	for id, s := range c.streams {
		if id > ev.Stream {
			s.abort(err)
		}
	}
	c.Close()
}

// freed implements role.
func (c *Client) freed() {
	if !c.gone {
		c.cfg.Room(c)
	}
}

// pingTime implements role.
func (c *Client) pingTime() time.Duration { return clientPingTime }

// ended implements role.
func (c *Client) ended(error) { c.lose() }

// lose says that the connection takes no more exchanges.
func (c *Client) lose() {
	if !c.gone {
		c.gone = true
		c.cfg.Gone(c)
	}
}

// headers implements role: it takes an answer's head, an interim one, or trailers.
func (c *Client) headers(s *stream, ev h2.Event) {
	switch {
	case s == nil || s.to == nil: // nobody wants it any more
	case s.call.answered:
		trailers, err := parseTrailers(ev.Fields)
		if err != nil {
			s.fault(h2.ProtocolError, err)
			return
		}
		if trailers == nil {
			trailers = []exchange.Field{}
		}
		s.end(trailers)
	default:
		if err := s.call.head(ev); err != nil {
			s.fault(h2.ProtocolError, err)
		}
	}
}

// call is an exchange on a Client, as the side that asks sees it: the exchange.Server.
type call struct {
	stream
	client   exchange.Client
	req      *exchange.Request
	answer   exchange.Response
	space    [16]exchange.Field
	answered bool
	interim  int
	length   int64 // of the request's body that is still to come; negative if it isn't known
	fail     loop.Task
}

// begun tells that something of an answer came.
func (x *call) begun() bool { return x.answered || x.interim > 0 }

// head takes the head of an answer, or of an interim one.
func (x *call) head(ev h2.Event) error {
	r := &x.answer
	if err := parseResponse(ev.Fields, r); err != nil {
		return err
	}
	switch {
	case r.Status == 101: // RFC 9113 section 8.6
		return errors.New("status 101, which HTTP/2 doesn't have")
	case r.Status < 200:
		if x.interim++; x.interim > maxInterim {
			return fmt.Errorf("more than %d interim answers", maxInterim)
		}
		r.Length = 0
		x.client.Inform(r)
		x.answer = exchange.Response{}
		return nil
	}
	x.answered = true
	none := r.Status == 204 || r.Status == 304 || x.req.Method == "HEAD"
	switch {
	case none:
		x.left = 0
	case ev.EndStream && r.Length > 0:
		return errLength
	case ev.EndStream:
		r.Length, x.left = 0, 0
	default:
		x.left = r.Length
	}
	x.client.Respond(r)
	if ev.EndStream {
		x.end(nil)
	}
	return nil
}

// Data implements exchange.Server.
func (x *call) Data(p []byte) {
	switch {
	case x.to == nil || x.finished || len(p) == 0:
	case x.length >= 0 && int64(len(p)) > x.length:
		x.breakOff(errLength)
	default:
		if x.length >= 0 {
			x.length -= int64(len(p))
		}
		x.send(p)
	}
}

// End implements exchange.Server.
func (x *call) End(trailers []exchange.Field) {
	if x.to == nil || x.finished {
		return
	}
	if x.length > 0 {
		x.breakOff(errLength)
		return
	}
	var fields []hpack.HeaderField
	if trailers != nil {
		var err error
		if fields, err = appendFields(make([]hpack.HeaderField, 0, len(trailers)), trailers); err != nil {
			x.breakOff(err)
			return
		}
	}
	x.finish(fields)
}

// Abort implements exchange.Server.
func (x *call) Abort(error) {
	if x.to != nil {
		x.leave()
		x.reset(h2.Cancel)
	}
}

// breakOff ends an exchange whose request is against the rules, for both sides.
func (x *call) breakOff(err error) {
	x.Abort(err)
	x.client.Abort(err)
}

// Consumed implements exchange.Server.
func (x *call) Consumed(n int) { x.consumed(n) }

// failSoon ends an exchange that doesn't even begin, when Handle has returned.
func (x *call) failSoon(err error) {
	x.fail.Run = func() {
		if x.to != nil {
			x.to = nil
			x.client.Abort(err)
		}
	}
	x.conn.pipe.Loop().Output(&x.fail)
}
