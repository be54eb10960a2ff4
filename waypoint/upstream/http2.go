package upstream

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h2c"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// http2 is the connections of HTTP/2 to one place, and those who wait for one.
type http2 struct {
	clients []*shared
	dialing *Dialling
	waiting []*waiter
	only1   bool // by TLS, the server has chosen HTTP/1.1; this is forgotten with the next sweep
}

// shared is a connection of HTTP/2.
type shared struct {
	*h2c.Client
	handle exchange.Handler
	idle   int // sweeps that found it without requests
}

// waiter is a request that waits for a connection.
type waiter struct {
	ready func(exchange.Handler, error)
	gone  bool
	own   *Dialling // a connection for it alone, instead
}

// take2 is Take for HTTP/2, whose connections are shared.
func (s *Servers) take2(at place) exchange.Handler {
	if all := s.http2[at]; all != nil {
		for _, c := range all.clients {
			if c.Room() > 0 {
				return c.handle
			}
		}
	}
	return nil
}

// wait2 is Dial for HTTP/2: one connection is made for all who wait.
func (s *Servers) wait2(e *Endpoint, at place, asked Asked, ready func(exchange.Handler, error)) *Dialling {
	all := s.http2[at]
	if all == nil {
		all = &http2{}
		s.http2[at] = all
	}
	w := &waiter{ready: ready}
	all.waiting = append(all.waiting, w)
	if all.dialing == nil {
		s.dial2(e, at, all, asked)
	}
	return &Dialling{cancel: w.cancel, silent: all.silent}
}

func (w *waiter) cancel() {
	if w.gone = true; w.own != nil {
		w.own.Cancel()
	}
}

// only1 tells that a server is known not to choose HTTP/2.
func (s *Servers) only1(at place) bool { return s.http2[at] != nil && s.http2[at].only1 }

// dial2 makes one more connection, for those who wait.
func (s *Servers) dial2(e *Endpoint, at place, all *http2, asked Asked) {
	endpoint := *e
	asked.offer = []string{protocol2}
	if asked.Either {
		asked.offer = append(asked.offer, protocol1)
	}
	all.dialing = s.dialer.Dial(e, asked, func(p *pipe.Pipe, protocol string, err error) {
		all.dialing = nil
		waiting := all.waiting
		all.waiting = nil
		var c *shared
		switch {
		case err != nil:
		case asked.TLS == nil || protocol == protocol2:
			c = s.shared(at, all, p)
		case asked.Either:
			all.only1 = true
			s.give1(&endpoint, at, asked, p, waiting)
			return
		default:
			p.Reset()
			err = errNoHTTP2
		}
		for i, w := range waiting {
			switch {
			case w.gone:
			case err != nil:
				w.ready(nil, err)
			case c.Room() > 0:
				w.ready(c.handle, nil)
			default:
				all.waiting = append(all.waiting, waiting[i])
			}
		}
		if len(all.waiting) > 0 && all.dialing == nil {
			s.dial2(&endpoint, at, all, asked)
		}
		s.tidy2(at, all)
	})
}

// give1 gives a connection on which the server has chosen HTTP/1.1 to one of those who wait, and makes one for each of the others.
func (s *Servers) give1(e *Endpoint, at place, asked Asked, p *pipe.Pipe, waiting []*waiter) {
	s.watch()
	first := s.http1(at, p)
	for _, w := range waiting {
		switch {
		case w.gone:
		case first != nil:
			handle := first.handle
			first = nil
			w.ready(handle, nil)
		default:
			w.own = s.dial1(e, at, asked, w.ready)
		}
	}
	if first != nil {
		s.put(first)
	}
}

func (all *http2) silent() bool { return all.dialing != nil && all.dialing.Silent() }

// shared makes a connection that others find.
func (s *Servers) shared(at place, all *http2, p *pipe.Pipe) *shared {
	c := &shared{}
	c.Client = h2c.NewClient(p, h2c.ClientConfig{Room: func(*h2c.Client) {}, Gone: func(*h2c.Client) { s.left2(at, all, c) }})
	c.handle = c.Handle
	all.clients = append(all.clients, c)
	s.watch()
	return c
}

// left2 takes a connection off that takes no more requests.
func (s *Servers) left2(at place, all *http2, c *shared) {
	all.clients = slices.DeleteFunc(all.clients, func(other *shared) bool { return other == c })
	s.tidy2(at, all)
}

func (s *Servers) tidy2(at place, all *http2) {
	if !all.only1 && len(all.clients) == 0 && all.dialing == nil && len(all.waiting) == 0 && s.http2[at] == all {
		delete(s.http2, at)
	}
}

// sweep2 closes what is idle for long.
func (s *Servers) sweep2() {
	var old []*shared
	for at, all := range s.http2 {
		all.only1 = false
		s.tidy2(at, all)
		for _, c := range all.clients {
			if c.idle++; c.Running() > 0 {
				c.idle = 0
			}
			if time.Duration(c.idle)*sweepTime > idleTime {
				old = append(old, c)
			}
		}
	}
	for _, c := range old {
		c.Close() // which takes it off
	}
}
