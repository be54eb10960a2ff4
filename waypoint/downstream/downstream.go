// Package downstream finds out what a client's connection speaks: by what is known of the port, and by its first bytes.
package downstream

import (
	"bytes"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// Port is what is known of the port that a connection is for.
type Port uint8

// What may be known of a port.
const (
	Auto Port = iota // nothing
	HTTP             // HTTP/1 or HTTP/2, gRPC among it
	TLS
	TCP // anything, which isn't looked at
)

// Protocol is what a connection speaks.
type Protocol uint8

// What connections may speak.
const (
	Opaque    Protocol = iota // anything else
	HTTP1                     // HTTP/1.0 and 1.1
	HTTP2                     // HTTP/2 by prior knowledge
	Encrypted                 // TLS, with a ClientHello
	Silent                    // nothing: on an Auto port, where the server may speak first
)

// Found is what was found out of a connection.
type Found struct {
	Protocol   Protocol
	ServerName string // of Encrypted, in lower case; "" if the client names none
}

// SilenceTime is how long a client of an Auto port may say nothing before it is found Silent. It may be so on purpose, so what holds for requests on
// such a port mustn't depend on it.
const SilenceTime = 500 * time.Millisecond

const (
	beginTime = 10 * time.Second // for what tells protocols apart, from the first byte
	maxLine   = 8 << 10          // bytes of a first line that is waited for
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// detection is a pipe's user until it is found out what it speaks.
type detection struct {
	pipe  *pipe.Pipe
	port  Port
	found func(Found)
	gone  func(error)
	timer loop.Timer
	begun bool
	over  bool

	request bool // what has come may become one
}

// Detect has found called once, after Detect has returned. Nothing of what came is lost: who starts to use the pipe then gets it. If the client
// goes before that, gone is called instead.
func Detect(p *pipe.Pipe, port Port, found func(Found), gone func(error)) {
	d := &detection{pipe: p, port: port, found: found, gone: gone}
	d.timer.Run = d.timeUp
	wait := SilenceTime
	switch port {
	case TCP:
		wait = 0
	case HTTP, TLS:
		wait = beginTime // the client's turn
	}
	p.Loop().After(&d.timer, wait)
	if port != TCP {
		p.Start(d)
	}
}

// Receive implements pipe.User. It takes nothing.
func (d *detection) Receive(p []byte, end bool) int {
	if d.over {
		return 0
	}
	result, sure := look(p, d.port)
	d.request = !sure && d.port == Auto && len(p) > 0 && !mayBeHello(p)
	switch {
	case sure || end:
		d.tell(result)
	case !d.begun && len(p) > 0:
		d.begun = true
		d.pipe.Loop().After(&d.timer, beginTime)
	}
	return 0
}

// timeUp decides by what has come. What may still become a request is taken for one: else a client could have it passed on by taking its time.
func (d *detection) timeUp() {
	result := Found{}
	switch {
	case d.port == HTTP || d.request:
		result.Protocol = HTTP1 // which has its own idea of how long to wait
	case d.port == Auto && !d.begun:
		result.Protocol = Silent
	}
	d.tell(result)
}

func (d *detection) tell(result Found) {
	d.over = true
	d.pipe.Loop().Stop(&d.timer)
	d.found(result)
}

// Sent implements pipe.User.
func (d *detection) Sent() {}

// Broken implements pipe.User.
func (d *detection) Broken(err error) {
	if !d.over {
		d.over = true
		d.pipe.Loop().Stop(&d.timer)
		d.gone(err)
	}
}

// look tells what a connection speaks that begins with p, and whether more bytes could not change that.
func look(p []byte, port Port) (f Found, sure bool) {
	switch {
	case port == HTTP && isPrefix(p, preface):
		return Found{Protocol: HTTP2}, len(p) >= len(preface)
	case port == HTTP:
		return Found{Protocol: HTTP1}, true
	case len(p) == 0:
		return Found{}, false
	case mayBeHello(p):
		name, whole, ok := serverName(p)
		if !ok {
			return Found{}, whole
		}
		return Found{Encrypted, name}, whole
	case port == TLS:
		return Found{}, true
	case isPrefix(p, preface):
		return Found{Protocol: HTTP2}, len(p) >= len(preface)
	}
	return lookForRequest(p)
}

// isPrefix tells whether p begins as s does, or s as p.
func isPrefix(p []byte, s string) bool {
	n := min(len(p), len(s))
	return string(p[:n]) == s[:n]
}

// lookForRequest looks for the first line of a request: "GET / HTTP/1.1". Servers differ in what else they take for one, so it's also one that isn't well
// written, or longer than is waited for: who has it passed on unseen could tell a server what only a waypoint may.
func lookForRequest(p []byte) (f Found, sure bool) {
	enough := len(p) >= maxLine
	p = bytes.TrimLeft(p[:min(len(p), maxLine)], "\r\n") // RFC 9112 section 2.2
	line, _, whole := bytes.Cut(p, []byte("\n"))
	end := bytes.IndexAny(line, " \t\v\f\r")
	method := line
	if end >= 0 {
		method = line[:end]
	}
	switch {
	case len(p) > 0 && !exchange.ValidToken(string(method)):
		return Found{}, true
	case !whole && !enough:
		return Found{}, false
	case !whole && end >= 0:
		return Found{Protocol: HTTP1}, true
	}
	for _, word := range bytes.Fields(line[len(method):]) {
		if len(word) >= 5 && bytes.EqualFold(word[:5], []byte("HTTP/")) {
			return Found{Protocol: HTTP1}, true
		}
	}
	return Found{}, true
}
