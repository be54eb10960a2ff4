// Package h1 is HTTP/1.1 and 1.0 (RFC 9112) on pipes, for both roles: a Server reads requests and has a Handler answer them, a Client is a
// Handler that has its server answer.
//
//	bytes ─▶ head.go, fields.go: a head as one string   body.go: what of the bytes is content ─▶ calls of exchange
//	calls of exchange ─▶ write.go: bytes
//	server.go, answer.go: a client's connection and its exchange          client.go, call.go: the same with a server
//
// It is strict. A message whose end two parsers could see at different places is refused: it could smuggle another past the rules for it.
package h1

import (
	"fmt"
	"time"
)

const (
	maxHead     = 64 << 10         // bytes of a head
	maxFields   = 200              // of a head, or of trailers
	maxOptions  = 100              // of a connection, beside those that are known
	maxTrailers = 16 << 10         // bytes
	maxInterim  = 32               // answers before an answer
	maxUnwanted = 256 << 10        // bytes of a request that nobody wants and that are read all the same, to keep the connection
	lowWater    = 64 << 10         // bytes that wait for a pipe, from which on whoever sends more has to wait
	drainTime   = time.Second      // without a request, of a connection that is to end
	lingerTime  = 2 * time.Second  // for the peer to end as we have
	stallTime   = 5 * time.Minute  // in which a peer that is waited for takes or sends nothing
	partedTime  = 30 * time.Second // for an answer to go on when its client has ended its direction
)

// Malformed says why a message isn't one, or is longer than we take.
type Malformed struct {
	Status int // of the answer to a request like this
	Reason string
}

func (e *Malformed) Error() string { return e.Reason }

func malformed(reason string) *Malformed { return &Malformed{400, reason} }

// statusError is an answer that can't be passed on, or none.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("the server's answer: "+format, args...)
}
