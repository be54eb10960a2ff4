package serve

import (
	"github.com/tulle-mesh/tulle/waypoint/downstream"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

// silent is a connection to a port of which nothing is known, by a client that has said nothing. Its server may be one that speaks first, so there is a
// connection to that; or the client keeps the connection for requests to come. Who speaks first tells.
type silent struct {
	connection *connection
	server     *pipe.Pipe
	over       bool
}

// silentClient and silentServer are the users of its two pipes.
type (
	silentClient struct{ *silent }
	silentServer struct{ *silent }
)

// await is between steps 4 and 5.
func (c *connection) await(server *pipe.Pipe) {
	c.table = nil // must not live as long as the connection
	s := &silent{connection: c, server: server}
	c.handler.silent[s] = struct{}{}
	c.client.Start(silentClient{s})
	server.Start(silentServer{s})
}

// Receive implements pipe.User. It takes nothing.
func (s silentClient) Receive([]byte, bool) int {
	s.listen()
	return 0
}

// Receive implements pipe.User. It takes nothing.
func (s silentServer) Receive([]byte, bool) int {
	s.join()
	return 0
}

// Sent implements pipe.User.
func (s *silent) Sent() {}

// Broken implements pipe.User.
func (s *silent) Broken(error) { s.join() } // where it is counted as what it was

// end has the connection go on.
func (s *silent) end() {
	s.over = true
	c := s.connection
	delete(c.handler.silent, s)
	c.ended = false
	c.table = c.handler.cfg.Table()
	if self := c.handler.cfg.Self(c.table); self != nil {
		c.self = self
	}
}

// join is for a server that has spoken first, or an end that breaks.
func (s *silent) join() {
	if s.over {
		return
	}
	s.end()
	s.connection.silent = false
	s.joinAllowed()
}

func (s *silent) joinAllowed() {
	if c := s.connection; c.stands(s.server) {
		c.ended = true
		c.join(s.server)
	}
}

// listen is for a client that has spoken first. What the server says meanwhile waits.
func (s *silent) listen() {
	if s.over {
		return
	}
	s.end()
	c := s.connection
	c.silent = false
	downstream.Detect(c.client, downstream.Auto, func(found downstream.Found) {
		if found.Protocol == downstream.Opaque {
			s.joinAllowed()
			return
		}
		s.server.Reset()
		c.find()
	}, func(err error) {
		s.server.Reset()
		c.client = nil
		c.refuse(err)
	})
}

// recheck is for rules that have changed.
func (s *silent) recheck(t *table.Table) {
	if err := s.connection.handler.stands(t, s.connection.opaque()); err != nil {
		s.end()
		s.connection.leave(s.server, err)
	}
}
