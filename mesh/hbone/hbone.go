// Package hbone carries TCP connections through mutually authenticated HTTP/2 CONNECT tunnels: a client pool, a server, and the
// streams between them.
//
//	Connect   attempt.go   a tunnel of the pool (pool.go) that has room, or a dial (dial.go) that all who wait share
//	          request.go   what is asked for, in headers: authority.go, baggage.go, forwarded.go
//	Serve     server.go    a handshake, then a decision for each CONNECT                           incoming.go
//	          handshake.go crypto/tls beside the loop, until the keys are known
//	          tunnel.go    one connection: streams, end, clocks, on the state machine of mesh/h2
//	          stream.go    one tunnelled connection, joined with an application's socket; how it ends is in end.go
//	          user.go      or used by code in this process
//	          driver.go    how bytes move, once a turn; batch.go lays out what is sent, loop.Backlog keeps what isn't taken
//
// A pool or server belongs to one event loop (mesh/loop) with all that comes of it: no locks, and nothing here waits.
package hbone

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// Stage is the step of opening a tunnel that failed.
type Stage uint8

// The stages, in the order they happen.
const (
	StageConnect  Stage = iota // the TCP connection
	StageIdentity              // our own certificate for it
	StageTLS                   // the handshake, with both certificates' checks
	StageHTTP2                 // the peer's preface and settings
)

// String names the stage as error messages do.
func (s Stage) String() string {
	switch s {
	case StageConnect:
		return "connect"
	case StageIdentity:
		return "own certificate"
	case StageTLS:
		return "TLS handshake"
	}
	return "HTTP/2 set-up"
}

// DialError tells why there is no tunnel to Addr. Every Connect that waited for the same attempt gets the same error.
type DialError struct {
	Stage Stage
	Addr  netip.AddrPort
	Err   error
}

func (e *DialError) Error() string {
	return fmt.Sprintf("open tunnel to %s: %s: %v", e.Addr, e.Stage, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }

// StatusError is a peer's answer to CONNECT other than exactly 200.
type StatusError struct {
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("peer refused the connection: http status %d", e.Status)
}

// Elsewhere tells of a failure to connect that another endpoint may not have. Nothing of the client was sent yet.
func Elsewhere(err error) bool {
	if errors.As(err, new(*loop.QuotaError)) {
		return false // it is the pod's own
	}
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status != 401 // another endpoint has the same policies
	}
	var dial *DialError
	if errors.As(err, &dial) {
		return dial.Stage != StageIdentity // it is our own certificate
	}
	return true
}
