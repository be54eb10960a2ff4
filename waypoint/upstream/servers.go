package upstream

import (
	"errors"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
	"github.com/tulle-mesh/tulle/waypoint/secure"
)

const (
	// maxIdle is how many connections without a request one worker keeps.
	maxIdle = 10_000
	// idleTime is how long it keeps one.
	idleTime = time.Minute
	// sweepTime is how often it looks for those.
	sweepTime = 10 * time.Second
)

// Servers keeps connections to endpoints between requests, on one worker.
type Servers struct {
	dialer *Dialer
	idle   map[place][]*http1 // by how long they are idle
	count  int
	http2  map[place]*http2
	sweep  loop.Timer
	swept  bool // the timer is set
}

// place is what requests have in common that may go over one connection.
type place struct {
	workload, service, host string
	addr                    netip.AddrPort
	tls                     *secure.Policy
	either                  bool
}

func (e *Endpoint) place(asked *Asked) place {
	return place{workload: e.Workload.UID, service: asked.Service, host: e.Host, addr: e.Addr, tls: asked.TLS, either: asked.Either}
}

// http1 is a connection of HTTP/1.1.
type http1 struct {
	client *h1.Client
	handle exchange.Handler
	place  place
	since  time.Time // it is idle
}

// NewServers has no connections yet.
func NewServers(d *Dialer) *Servers {
	s := &Servers{dialer: d, idle: map[place][]*http1{}, http2: map[place]*http2{}}
	s.sweep.Run = s.tidy
	return s
}

// Version is the one that servers behind a port are spoken to in, for a client that speaks another or the same.
func Version(svc *state.Service, port uint16, client exchange.Version, grpc bool) exchange.Version {
	var known state.AppProtocol
	if svc != nil {
		p, _ := svc.Port(port)
		known = p.Protocol
	}
	switch {
	case grpc, known == state.HTTP2, known == state.GRPC, known != state.HTTP1 && client == exchange.HTTP2:
		return exchange.HTTP2
	}
	return exchange.HTTP11
}

// Either tells whether servers behind a port, which are spoken to by TLS, may choose their version of HTTP.
func Either(svc *state.Service, port uint16, grpc, upgrade bool) bool {
	p, _ := svc.Port(port)
	return !grpc && !upgrade && p.Protocol != state.HTTP1 && p.Protocol != state.HTTP2 && p.Protocol != state.GRPC
}

// The protocols of HTTP by TLS (RFC 7301 section 6, RFC 9113 section 3.2).
const (
	protocol1 = "http/1.1"
	protocol2 = "h2"
)

var errNoHTTP2 = errors.New("the server doesn't speak HTTP/2 by TLS")

// Take finds a connection to an endpoint that takes a request, and returns its handler, or nil.
func (s *Servers) Take(e *Endpoint, v exchange.Version, asked *Asked) exchange.Handler {
	at := e.place(asked)
	if v == exchange.HTTP2 || asked.Either {
		if handler := s.take2(at); handler != nil || !asked.Either {
			return handler
		}
	}
	if asked.Fresh {
		return nil
	}
	if c := s.take(at); c != nil {
		return c.handle
	}
	return nil
}

// Dial makes a connection where Take found none, and calls ready, after it has returned, with its handler or the reason why there is none.
func (s *Servers) Dial(e *Endpoint, v exchange.Version, asked Asked, ready func(exchange.Handler, error)) *Dialling {
	at := e.place(&asked)
	if v == exchange.HTTP2 && !asked.Either || asked.Either && !s.only1(at) {
		return s.wait2(e, at, asked, ready)
	}
	return s.dial1(e, at, asked, ready)
}

func (s *Servers) dial1(e *Endpoint, at place, asked Asked, ready func(exchange.Handler, error)) *Dialling {
	asked.offer = []string{protocol1}
	return s.dialer.Dial(e, asked, func(p *pipe.Pipe, _ string, err error) {
		if err != nil {
			ready(nil, err)
			return
		}
		ready(s.http1(at, p).handle, nil)
	})
}

func (s *Servers) http1(at place, p *pipe.Pipe) *http1 {
	c := &http1{place: at}
	c.client = h1.NewClient(p, h1.ClientConfig{
		Free: func(*h1.Client) { s.put(c) },
		Gone: func(*h1.Client) { s.remove(c) },
	})
	c.handle = c.client.Handle
	return c
}

// take returns the connection that was used last.
func (s *Servers) take(at place) *http1 {
	list := s.idle[at]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	s.keep(at, list[:len(list)-1])
	s.count--
	return c
}

func (s *Servers) put(c *http1) {
	if s.count >= maxIdle {
		c.client.Close()
		return
	}
	s.watch()
	c.since = s.dialer.Worker.Now()
	s.idle[c.place] = append(s.idle[c.place], c)
	s.count++
}

func (s *Servers) remove(c *http1) {
	list := s.idle[c.place]
	for i := range list {
		if list[i] == c {
			s.keep(c.place, append(list[:i], list[i+1:]...))
			s.count--
			return
		}
	}
}

func (s *Servers) keep(at place, list []*http1) {
	clear(list[len(list):cap(list)])
	s.idle[at] = list // the place stays until it is swept
}

// tidy closes what is idle for long.
func (s *Servers) tidy() {
	s.swept = false
	before := s.dialer.Worker.Now().Add(-idleTime)
	var old []*http1
	for at, list := range s.idle {
		if len(list) == 0 {
			delete(s.idle, at)
		}
		for i := 0; i < len(list) && list[i].since.Before(before); i++ {
			old = append(old, list[i])
		}
	}
	for _, c := range old {
		c.client.Close() // which removes it
	}
	s.sweep2()
	if len(s.idle) > 0 || len(s.http2) > 0 {
		s.watch()
	}
}

// watch has it looked for idle connections from time to time.
func (s *Servers) watch() {
	if !s.swept {
		s.swept = true
		s.dialer.Worker.After(&s.sweep, sweepTime)
	}
}
