// Package h2c is HTTP/2 (RFC 9113) on pipes, begun by prior knowledge, for both roles: a Server has a Handler answer the requests on its
// streams, a Client is a Handler whose server answers on streams of one connection.
//
//	bytes ─▶ mesh/h2 ─▶ events ─▶ calls of exchange          conn.go, stream.go; heads.go has what heads become
//	calls of exchange ─▶ mesh/h2 ─▶ bytes
//	server.go: a client's connection        client.go: one with a server
package h2c

import (
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

const (
	maxHeaders  = 64 << 10 // bytes of a head, as RFC 9113 section 6.5.2 counts
	maxFields   = 200      // of a head
	maxInterim  = 32       // answers before an answer
	lowWater    = 64 << 10 // bytes that wait for the pipe, from which on no more are given to it
	highWater   = 1 << 20  // from which on nothing is read, as the peer doesn't either: it would bring about more heads, which always go
	window      = 1 << 20  // bytes that a connection may have given to all exchanges and not consumed, unless streams are stalled
	tickTime    = 10 * time.Second
	stallTime   = 5 * time.Minute // in which a peer that has to read doesn't
	lingerTime  = 2 * time.Second // for the peer to end as we have
	greetTime   = 10 * time.Second
	patientTime = time.Second // for which a client waits that doesn't ask for the sake of giving up
	defaultIdle = time.Hour

	// pingTime is how long nothing has come until the peer is asked for a sign of life, and answerTime how long that may take. Servers of gRPC take a
	// client for an attacker that asks more often than every five minutes, or without a request.
	serverPingTime, clientPingTime = time.Minute, 5*time.Minute + 10*time.Second
	answerTime                     = 20 * time.Second
)

var (
	errPeerGone   = errors.New("the connection has ended")
	errStalled    = errors.New("the peer doesn't read")
	errLength     = errors.New("the body isn't as long as it says")
	errNoSettings = errors.New("the peer sends no HTTP/2 settings")
	errIdle       = errors.New("the connection was idle")
	errDead       = errors.New("the peer doesn't answer PINGs")
	errEarly      = errors.New("the client speaks another protocol before that is agreed")
	errNoUpgrade  = errors.New("the server answers in HTTP what asked for another protocol")
)

// limits are those that both roles announce.
func limits(role h2.Role, streams int) h2.Config {
	return h2.Config{
		Role: role, StreamWindow: exchange.Window, ConnectionWindow: window, MaxHeaderList: maxHeaders, MaxStreams: uint32(streams), ExtendedConnect: role == h2.Server,
	}
}
