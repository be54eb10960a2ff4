package h1

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// ServerConfig makes Servers. All functions are called on the loop.
type ServerConfig struct {
	Scheme      string                      // of requests: "http" or "https"
	Handle      exchange.Handler            // answers them
	HeadTimeout time.Duration               // for a head, from its first byte; 0 means 10 s
	IdleTimeout time.Duration               // without a request; 0 means an hour
	Refused     func(status int, err error) // hears of what is no request, and how the server answers it itself; it may be nil
	Closed      func()                      // hears that the connection is over; it may be nil
}

// Server is a client's connection. One request after the other is answered; what comes meanwhile of the next waits.
type Server struct {
	cfg  ServerConfig
	pipe *pipe.Pipe

	answer *answer // under way, or nil
	body   body    // of the request; what is left of it when the answer is complete is thrown away
	blank  bool    // an empty line came before the head, which may be once
	seen   int     // bytes of a head that were looked at

	draining bool // the exchange that runs is the last
	closing  bool // ours is said, the client's end is waited for
	parted   bool // the client has ended its direction, and may still read
	over     bool

	since    time.Time // a head, the idle time, or the end has begun; or the last byte came or went within an exchange
	unwanted int       // bytes of the request that were thrown away
	clock    loop.Timer
	alarm    time.Time // that the clock is set to
}

var (
	errClientGone = errors.New("the client has gone")
	errStalled    = errors.New("the client neither sends nor reads")
)

// Serve has a Server use the pipe.
func Serve(p *pipe.Pipe, cfg ServerConfig) *Server {
	if cfg.HeadTimeout == 0 {
		cfg.HeadTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = time.Hour
	}
	s := &Server{cfg: cfg, pipe: p, body: body{done: true}, since: p.Loop().Now()}
	s.clock.Run = s.tick
	s.wake(s.due())
	p.Start(s)
	return s
}

// Drain closes the connection when the exchange that runs has ended. If there is none, one that comes within drainTime of the last is still
// answered: it may be on its way.
func (s *Server) Drain() {
	s.draining = true
	if !s.closing && !s.over {
		s.wake(s.due())
	}
}

// Receive implements pipe.User.
func (s *Server) Receive(p []byte, end bool) (taken int) {
	for more := true; more; {
		var n int
		n, more = s.step(p[taken:])
		taken += n
	}
	if end {
		taken += s.clientEnd(p[taken:])
	}
	return taken
}

// step takes a head, or what is there of a body, and tells whether there may be more to take.
func (s *Server) step(p []byte) (n int, more bool) {
	switch {
	case s.over || s.closing:
		return len(p), false
	case s.answer != nil && s.body.done || s.crammed():
		return 0, false
	case s.answer != nil:
		return s.readBody(p)
	case !s.body.done:
		return s.skipBody(p)
	}
	return s.readHead(p)
}

// crammed tells that the client doesn't read the answers that it has: its next request waits.
func (s *Server) crammed() bool {
	return s.answer == nil && s.body.done && s.pipe.Waiting() > lowWater
}

func (s *Server) readHead(p []byte) (n int, more bool) {
	if !s.blank && len(p) >= 2 && p[0] == '\r' && p[1] == '\n' { // RFC 9112 section 2.2
		s.blank = true
		return 2, true
	}
	n = headEnd(p, s.seen)
	switch {
	case len(p) == 0:
		return 0, false
	case n > maxHead || (n == 0 && len(p) > maxHead):
		s.refuse(tooLong(p))
		return len(p), false
	case n == 0 && bareLine(p, s.seen):
		s.refuse(malformed("a line doesn't end in CRLF"))
		return len(p), false
	case n == 0:
		first := s.seen == 0
		if s.seen = len(p); first {
			s.since = s.now()
			s.wake(s.due())
		}
		return 0, false
	}
	s.blank, s.seen = false, 0
	return n, s.begin(p[:n])
}

// tooLong is the answer to a head that has no end: to its target (RFC 9112 section 3), or to its fields (RFC 6585 section 5).
func tooLong(p []byte) error {
	if !strings.Contains(text(p[:maxHead]), "\n") {
		return &Malformed{414, "the target is too long"}
	}
	return &Malformed{431, "the head is too long"}
}

// begin has a request answered.
func (s *Server) begin(head []byte) (more bool) {
	a := &answer{conn: s}
	a.req.Fields = a.space[:0]
	var f framing
	if err := parseRequest(head, &a.req, &f); err != nil {
		s.refuse(err)
		return false
	}
	a.req.Scheme = s.cfg.Scheme
	a.keep = !f.close && (a.req.Version == exchange.HTTP11 || f.keepAlive)
	a.expect = f.expect && a.req.Version == exchange.HTTP11
	s.body = newBody(a.req.Length, f.chunked)
	s.answer, s.since, s.unwanted = a, s.now(), 0
	s.wake(s.since.Add(stallTime))
	a.server = s.cfg.Handle(&a.req, a)
	if s.body.done && a.req.Upgrade == "" {
		a.server.End(nil)
	}
	return true
}

func (s *Server) readBody(p []byte) (n int, more bool) {
	a := s.answer
	n, content, err := s.body.next(p, exchange.Window-a.given)
	if err != nil {
		s.fault(err)
		return len(p), false
	}
	if n > 0 {
		s.since = s.now()
	}
	if len(content) > 0 {
		a.given += len(content)
		a.expect = false // it doesn't wait to be told
		a.server.Data(content)
	}
	if s.body.done && s.answer == a {
		a.server.End(s.body.trailers)
	}
	return n, n > 0
}

// skipBody throws away what nobody wants of a request, so that the connection can go on. When it is much, it can't.
func (s *Server) skipBody(p []byte) (n int, more bool) {
	n, _, err := s.body.next(p, len(p))
	if s.unwanted += n; err != nil || s.unwanted > maxUnwanted {
		s.close()
		return len(p), false
	}
	if s.body.done {
		s.since = s.now()
	}
	return n, n > 0
}

// clientEnd takes the client's end after all that came before it but p, and returns how much of p is of no use any more.
func (s *Server) clientEnd(p []byte) int {
	switch {
	case s.over:
	case !s.closing && s.crammed() && len(p) > 0:
		return 0 // p are requests that wait
	case s.closing || s.answer == nil:
		s.parted = true
		s.close()
		s.endIfOver()
	case s.body.done:
		if !s.parted {
			s.parted, s.since = true, s.now()
			s.wake(s.due())
		}
		return 0 // p are requests that wait
	case len(p) > 0 && s.answer.given == exchange.Window:
		return 0
	case s.body.kind == raw:
		s.body.done, s.parted, s.since = true, true, s.now()
		s.answer.server.End(nil)
	default:
		s.fault(errClientGone)
	}
	return len(p)
}

// fault is the end of an exchange whose request has turned out to be none, or incomplete.
func (s *Server) fault(err error) {
	a := s.answer
	s.answer = nil
	if a.responded {
		s.reset()
	} else {
		s.deny(err)
	}
	a.server.Abort(err) // by which it hears of it, so Refused needn't
}

// refuse is the end of what is no request.
func (s *Server) refuse(err error) {
	status := s.deny(err)
	if s.cfg.Refused != nil {
		s.cfg.Refused(status, err)
	}
}

// deny answers what is no request, or turns out to be none, and closes.
func (s *Server) deny(err error) (status int) {
	status = 400
	if m := new(Malformed); errors.As(err, &m) {
		status = m.Status
	}
	s.pipe.Write(plainAnswer(status, err.Error()+"\n", "connection: close\r\n"))
	s.close()
	return status
}

// plainAnswer is an answer of the server's own.
func plainAnswer(status int, reason, connection string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n%s\r\n%s",
		status, http.StatusText(status), len(reason), connection, reason)
}

// finish ends an exchange whose answer is complete.
func (s *Server) finish(keep bool) {
	s.answer, s.since = nil, s.now()
	if !keep || s.draining {
		s.close()
		return
	}
	s.pipe.Resume()
}

// close ends our direction. What the client still sends is thrown away until it ends too, since a reset now could take from it the answer.
func (s *Server) close() {
	if !s.closing && !s.over {
		s.closing, s.since = true, s.now()
		s.pipe.End()
		s.wake(s.due())
		s.pipe.Resume()
	}
}

func (s *Server) reset() {
	if !s.over {
		s.pipe.Reset()
		s.end()
	}
}

// endIfOver ends a connection whose both directions have.
func (s *Server) endIfOver() {
	if s.closing && s.parted && !s.over && s.pipe.Waiting() == 0 {
		s.end()
	}
}

// end is the connection's end.
func (s *Server) end() {
	s.over = true
	s.pipe.Loop().Stop(&s.clock)
	if s.cfg.Closed != nil {
		s.cfg.Closed()
	}
}

// Sent implements pipe.User.
func (s *Server) Sent() {
	switch a := s.answer; {
	case a != nil:
		s.since = s.now()
		a.release()
	case s.closing && !s.over:
		s.since = s.now()
		s.wake(s.due())
		s.endIfOver()
	case s.body.done && s.seen == 0 && !s.over: // a request may have waited for it
		s.since = s.now()
		s.pipe.Resume()
	}
}

// Broken implements pipe.User.
func (s *Server) Broken(err error) {
	if s.over {
		return
	}
	a := s.answer
	s.answer = nil
	s.end()
	if a != nil {
		a.server.Abort(fmt.Errorf("%w: %w", errClientGone, err))
	}
}

func (s *Server) now() time.Time { return s.pipe.Loop().Now() }
