package hbone

import (
	"net"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// Stream is one tunnelled connection. Exactly one of Join, Conn and Reset must be called in the end.
type Stream struct {
	peer    identity.Workload
	baggage Baggage
}

// Peer returns the identity that the other end proved.
func (s *Stream) Peer() identity.Workload { return s.peer }

// Baggage returns the other end's description of its workload: of the request on a server, of the response on a client.
func (s *Stream) Baggage() Baggage { return s.baggage }

// Join relays between the application's connection and the stream, takes both over and returns at once. Sent counts bytes
// from app to the stream, Received those from the stream to app. It calls done exactly once, from its own goroutine.
func (s *Stream) Join(app *net.TCPConn, done func(relay.Result)) *relay.Session { return nil }

// Conn returns the stream as an ordinary connection that also has CloseWrite.
func (s *Stream) Conn() net.Conn { return nil }

// Reset aborts the stream; the peer's application sees a reset.
func (s *Stream) Reset() {}
