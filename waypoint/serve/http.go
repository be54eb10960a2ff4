package serve

import (
	"errors"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/waypoint/downstream"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/h2c"
	"github.com/tulle-mesh/tulle/waypoint/route"
)

var errNotHTTP = errors.New("the port has routes for requests, and the client speaks no HTTP")

// portOf is what is known of a port: by its routes, else by its service.
func portOf(routes *route.Routes, p state.AppProtocol) downstream.Port {
	if routes != nil {
		switch routes.Protocol {
		case l7.Route_TCP:
			return downstream.TCP
		case l7.Route_TLS:
			return downstream.TLS
		}
		return downstream.HTTP
	}
	switch p {
	case state.HTTP1, state.HTTP2, state.GRPC:
		return downstream.HTTP
	case state.OpaqueTCP:
		return downstream.TCP
	case state.OpaqueTLS:
		return downstream.TLS // policies may ask for the server's name
	}
	return downstream.Auto
}

// listen answers the CONNECT, and finds out what the client speaks.
func (c *connection) listen(port downstream.Port, routes *route.Routes) {
	if c.client == nil {
		if err := c.accept(); err != nil {
			c.refuse(err)
			return
		}
	}
	downstream.Detect(c.client, port, func(found downstream.Found) { c.heard(found, routes) }, func(err error) {
		c.client = nil
		c.refuse(err)
	})
}

// heard goes on as the client speaks. What holds for requests on a port that isn't known to be HTTP's, can't be kept of what isn't HTTP.
func (c *connection) heard(found downstream.Found, routes *route.Routes) {
	c.encrypted, c.silent, c.serverName = found.Protocol == downstream.Encrypted, found.Protocol == downstream.Silent, found.ServerName
	switch {
	case found.Protocol == downstream.HTTP1:
		c.serve(func(s *session, closed func()) drainer {
			return h1.Serve(c.client, h1.ServerConfig{Scheme: "http", Handle: s.handle, Refused: s.refused, Closed: closed})
		})
	case found.Protocol == downstream.HTTP2:
		c.serve(func(s *session, closed func()) drainer {
			return h2c.Serve(c.client, h2c.ServerConfig{Handle: s.handle, Refused: s.refused, Closed: closed})
		})
	case forRequests(routes):
		c.refuse(errNotHTTP)
	case routes != nil:
		c.policyFacts = c.facts(found.ServerName)
		c.byRule(routes.Connection(found.ServerName))
	default:
		c.policyFacts = c.facts(found.ServerName)
		c.passOn()
	}
}

// drainer is a client's connection that can be told to end soon.
type drainer interface{ Drain() }

// serve has the client's requests served.
func (c *connection) serve(begin func(s *session, closed func()) drainer) {
	c.ended = true
	h, s := c.handler, c.session()
	age := new(loop.Timer)
	var server drainer
	server = begin(s, func() {
		h.cfg.Worker.Stop(age)
		delete(h.clients, server)
		s.close()
	})
	h.clients[server] = struct{}{}
	// A client that keeps its connection for ever would never come to another instance.
	if age.Run = server.Drain; h.cfg.MaxAge > 0 {
		h.cfg.Worker.After(age, h.cfg.MaxAge)
	}
	if h.draining {
		server.Drain()
	}
}

// Drain ends clients' connections when their requests are answered.
func (h *Handler) Drain() {
	h.draining = true
	for c := range h.clients {
		c.Drain()
	}
}
