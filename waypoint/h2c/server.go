package h2c

import (
	"fmt"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// ServerConfig makes Servers. All functions are called on the loop.
type ServerConfig struct {
	Handle      exchange.Handler            // answers requests
	MaxStreams  int                         // exchanges at once; 0 means 200
	IdleTimeout time.Duration               // without a request; 0 means an hour
	Refused     func(status int, err error) // hears of what is no request, and how the server answers it itself; it may be nil
	Closed      func()                      // hears that the connection is over; it may be nil
}

// Server is a client's connection.
type Server struct {
	conn
	cfg ServerConfig
}

// Serve has a Server use the pipe.
func Serve(p *pipe.Pipe, cfg ServerConfig) *Server {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 200
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = defaultIdle
	}
	s := &Server{cfg: cfg}
	s.idle = cfg.IdleTimeout
	s.start(s, p, limits(h2.Server, cfg.MaxStreams))
	return s
}

// Drain tells the client to open no more streams, and closes the connection when those that run have ended.
func (s *Server) Drain() {
	s.core.Shutdown()
	s.flush()
}

func (s *Server) event(h2.Event) {}
func (s *Server) freed()         {}

func (s *Server) pingTime() time.Duration { return serverPingTime }

func (s *Server) ended(error) {
	if s.cfg.Closed != nil {
		s.cfg.Closed()
	}
}

// headers takes a request's head, or its trailers.
func (s *Server) headers(st *stream, ev h2.Event) {
	if st != nil {
		trailers, err := parseTrailers(ev.Fields)
		switch {
		case st.to == nil: // nobody wants them
		case err != nil:
			st.fault(h2.ProtocolError, err)
		default:
			st.end(trailers)
		}
		return
	}
	a := &answer{stream: stream{conn: &s.conn, id: ev.Stream, began: s.now()}}
	a.answer = a
	a.req.Fields = a.space[:0]
	err := parseRequest(ev.Fields, &a.req)
	if err == nil && ev.EndStream && (a.req.Length > 0 || a.req.Upgrade != "") {
		err = errLength
	}
	if err != nil {
		s.refuse(ev.Stream, err)
		return
	}
	if a.left = a.req.Length; ev.EndStream {
		a.left, a.req.Length = 0, 0
	}
	s.add(&a.stream)
	server := s.cfg.Handle(&a.req, a)
	a.server, a.to = server, server
	if ev.EndStream {
		a.end(nil)
	}
}

// refuse answers what is no request: with a status, as clients understand that better than a reset.
func (s *Server) refuse(id uint32, err error) {
	status := 400
	if err == errConnect {
		status = 405
	}
	if s.cfg.Refused != nil {
		s.cfg.Refused(status, err)
	}
	s.core.Refuse(id, []hpack.HeaderField{{Name: ":status", Value: statusText(status)}, {Name: "content-length", Value: "0"}}, h2.ProtocolError)
	s.core.Reset(id, h2.NoError) // should the client still send
}

// answer is an exchange on a Server, as the side that answers sees it: the exchange.Client.
type answer struct {
	stream
	server    exchange.Server
	req       exchange.Request
	space     [16]exchange.Field
	responded bool
	none      bool                // the answer has no body
	length    int64               // of it that is still to come; negative if it isn't known
	head      []hpack.HeaderField // of an answer that may be nothing else: it is sent with the end
}

// Inform implements exchange.Client.
func (a *answer) Inform(r *exchange.Response) {
	if a.to == nil || a.responded {
		return
	}
	if fields, err := a.conn.responseFields(r, nil); err == nil {
		_ = a.conn.core.Headers(a.id, fields, false) // an answer that is too long for the client is not worth a reset here
		a.conn.flush()
	}
}

// responseFields makes a head in the space of the connection, or in dst if that isn't nil.
func (c *conn) responseFields(r *exchange.Response, dst []hpack.HeaderField) ([]hpack.HeaderField, error) {
	if dst == nil {
		dst = c.fields[:0]
	}
	fields, err := appendFields(append(dst, hpack.HeaderField{Name: ":status", Value: statusText(r.Status)}), r.Fields)
	if err == nil {
		c.fields = fields[:0]
	}
	return fields, err
}

// Respond implements exchange.Client.
func (a *answer) Respond(r *exchange.Response) {
	if a.to == nil || a.responded {
		return
	}
	if a.req.Upgrade != "" {
		if r = connected(r); r == nil {
			a.fail(errNoUpgrade)
			return
		}
	}
	a.none = r.Status == 204 || r.Status == 304 || a.req.Method == "HEAD"
	a.length = r.Length
	hold := a.none || r.Length == 0
	var dst []hpack.HeaderField
	if hold {
		dst = make([]hpack.HeaderField, 0, len(r.Fields)+2)
	}
	fields, err := a.conn.responseFields(r, dst)
	if err == nil && (r.Status < 200 || r.Status > 999) {
		err = fmt.Errorf("an answer's status is %d", r.Status)
	}
	if err != nil {
		a.fail(err)
		return
	}
	if r.Length > 0 && r.Status != 204 {
		fields = appendLength(fields, r.Length)
	}
	a.responded = true
	if hold {
		a.head = fields
		return
	}
	a.sayHead(fields, false)
}

// connected is the answer to a request for another protocol as HTTP/2 has it (RFC 8441 section 5): a success is 200. It is nil for what HTTP/2 would
// take for one and isn't.
func connected(r *exchange.Response) *exchange.Response {
	switch {
	case r.Status == 101:
		return &exchange.Response{Version: r.Version, Status: 200, Length: exchange.UnknownLength, Fields: exchange.Remove(r.Fields, webSocketAccept)}
	case r.Status < 300:
		return nil
	}
	return r
}

// early tells that a client hasn't waited until the other protocol is agreed.
func (a *answer) early() bool { return a.req.Upgrade != "" && !a.responded }

// sayHead sends an answer's head, perhaps as all of it.
func (a *answer) sayHead(fields []hpack.HeaderField, end bool) {
	a.head = nil
	if err := a.conn.core.Headers(a.id, fields, end); err != nil {
		a.fail(err)
		return
	}
	a.conn.flush()
}

// Data implements exchange.Client.
func (a *answer) Data(p []byte) {
	switch {
	case a.to == nil || len(p) == 0:
	case a.none:
		a.server.Consumed(len(p))
	case a.length >= 0 && int64(len(p)) > a.length:
		a.fail(errLength)
	default:
		if a.length >= 0 {
			a.length -= int64(len(p))
		}
		a.send(p)
	}
}

// End implements exchange.Client.
func (a *answer) End(trailers []exchange.Field) {
	if a.to == nil {
		return
	}
	if !a.responded || (!a.none && a.length > 0) {
		a.fail(errLength)
		return
	}
	var fields []hpack.HeaderField
	if trailers != nil && !a.none {
		var err error
		if fields, err = appendFields(make([]hpack.HeaderField, 0, len(trailers)), trailers); err != nil {
			a.fail(err)
			return
		}
	}
	head := a.head
	if head != nil {
		a.sayHead(head, fields == nil)
	}
	if a.to == nil {
		return
	}
	a.leave()
	if head != nil && fields == nil {
		a.done()
		a.conn.flush()
		return
	}
	a.finish(fields)
}

// Abort implements exchange.Client.
func (a *answer) Abort(error) {
	if a.to == nil {
		return
	}
	a.leave()
	if a.responded && a.head == nil {
		a.reset(h2.InternalError)
		return
	}
	_ = a.conn.core.Headers(a.id, []hpack.HeaderField{{Name: ":status", Value: "502"}}, true) // a dead connection needs no answer
	a.done()
	a.conn.flush()
}

// fail ends an exchange whose answer is against the rules, for both sides.
func (a *answer) fail(err error) {
	server := a.server
	a.Abort(err)
	server.Abort(err)
}

// Consumed implements exchange.Client.
func (a *answer) Consumed(n int) { a.consumed(n) }
