// Package h2 is the state of one HTTP/2 connection (RFC 9113) for either role, without sockets, goroutines or a clock:
// received bytes go in and events come out, calls go in and bytes to send come out.
//
//	received bytes ─▶ Receive ─▶ Event                                      receive.go, headers.go, settings.go
//	calls (Open, Headers, Reset, Consumed, Ping …) ─▶ control bytes         conn.go, stream.go
//	Ready ─▶ Next (whose turn, how much) ─▶ AppendData ─▶ data bytes        schedule.go
//
// A Conn is not safe for concurrent use: its driver owns it, and calls it under a lock or from one thread.
package h2

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

// Role is the side of the connection.
type Role uint8

// The roles.
const (
	Client Role = iota
	Server
)

// Code is an error code (RFC 9113 section 7).
type Code uint32

// The error codes of RFC 9113 section 7.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

// String returns the code's name as the RFC writes it.
func (c Code) String() string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
		"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
		"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("error code %#x", uint32(c))
}

// ConnError ends the connection. When Receive returns one, the GOAWAY for the peer is already among the control bytes.
type ConnError struct {
	Code   Code
	Reason string
}

func (e *ConnError) Error() string { return fmt.Sprintf("http2: %s: %s", e.Code, e.Reason) }

// Why a stream can't be opened.
var (
	ErrGoAway      = errors.New("http2: the connection is going away")
	ErrMaxStreams  = errors.New("http2: the peer allows no more streams now")
	errNoStream    = errors.New("http2: the stream is closed")
	ErrHeaderLimit = errors.New("http2: the header list is longer than the peer takes")
)

// Kind says what an Event tells.
type Kind uint8

// The kinds of events, with the fields of Event that they set.
const (
	None          Kind = iota // nothing yet: all bytes were taken, more are needed
	EventHeaders              // Stream, Fields, EndStream; on a server the first of a stream opens it
	EventData                 // Stream, Data, EndStream
	EventReset                // Stream, Code, Local: the stream is over, without a proper end when EndStream is false
	EventSettings             // the peer's settings came or changed
	EventGoAway               // Stream is the last one the peer has processed or may yet, Code; those above it are gone
	EventPong                 // Ping: the answer to Ping with that payload
)

// Event is what a piece of received bytes meant. Fields and Data are valid until the next call of Receive; Data is part of
// the bytes given to it.
type Event struct {
	Kind      Kind
	EndStream bool // the peer sends no more on this stream; on EventReset: it had ended properly before the reset
	Local     bool // on EventReset: we reset the stream because the peer broke a rule
	Stream    uint32
	Code      Code
	Ping      uint64
	Fields    []hpack.HeaderField
	Data      []byte
}

// Config sets the limits that we announce. A zero field means its default.
type Config struct {
	Role             Role
	StreamWindow     uint32   // bytes a peer may send ahead of a stream's reader; 0 means 4 MiB, at most 2^31-1
	ConnectionWindow uint32   // bytes a peer may send ahead of all readers; 0 means 16 MiB, at least 65535
	Reserve          *Reserve // what it may send beyond that while streams are stalled; nil means eight windows for this connection alone
	MaxFrameSize     uint32   // bytes of payload; 0 means 1 MiB, within 2^14 … 2^24-1
	MaxHeaderList    uint32   // bytes of one header list as RFC 9113 section 6.5.2 counts; 0 means 16 KiB for a client, 64 KiB for a server
	MaxStreams       uint32   // streams that the peer of a server may have open; 0 means 200
	ExtendedConnect  bool     // a server takes CONNECT with a protocol (RFC 8441)
}

func (cfg *Config) setDefaults() {
	set := func(field *uint32, value uint32) {
		if *field == 0 {
			*field = value
		}
	}
	set(&cfg.StreamWindow, 4<<20)
	set(&cfg.ConnectionWindow, 16<<20)
	if cfg.Reserve == nil {
		cfg.Reserve = NewReserve(standardReserve * int64(cfg.ConnectionWindow))
	}
	set(&cfg.MaxFrameSize, 1<<20)
	set(&cfg.MaxStreams, 200)
	if cfg.Role == Client {
		set(&cfg.MaxHeaderList, 16<<10)
	} else {
		set(&cfg.MaxHeaderList, 64<<10)
	}
}
