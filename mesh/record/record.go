// Package record is the record layer of TLS 1.3 (RFC 8446 section 5) without I/O, for connections whose handshake crypto/tls
// made: bytes in, plaintext out, and back, in the caller's own buffers. It holds no sockets, goroutines or clock; only
// Handshake, which lends crypto/tls a goroutine until the keys are known, does.
//
//	Handshake (handshake.go)  crypto/tls over memory → Reader and Writer
//	Writer    (writer.go)     plaintext, alerts, key updates → records
//	Reader    (reader.go)     records → plaintext; message.go follows the handshake messages between them
//	keys      (keys.go)       what one direction is protected with
package record

import "fmt"

// Lengths in bytes. A slot holds the longest record that a Writer makes, a record of MaxRecord bytes is the longest that a
// Reader accepts (RFC 8446 section 5.2: a peer may add padding).
const (
	HeaderLen    = 5
	MaxPlaintext = 1 << 14
	TagLen       = 16
	Overhead     = HeaderLen + 1 + TagLen
	SlotLen      = MaxPlaintext + Overhead
	MaxRecord    = HeaderLen + MaxPlaintext + 256
)

// contentType is what a record holds (RFC 8446 section 5.1).
type contentType = uint8

const (
	typeAlert     contentType = 21
	typeHandshake contentType = 22
	typeData      contentType = 23
)

// Role is an end of a connection.
type Role uint8

const (
	Client Role = iota
	Server
)

// State is all that one direction of a connection needs to go on from a record boundary: in this process, or in another one
// that is given the socket. The secret is that of now (RFC 8446 section 7.2): whoever has it can read and forge what follows.
type State struct {
	Suite    uint16
	Secret   []byte
	Sequence uint64 // of the next record
}

// String keeps the secret out of logs.
func (s State) String() string { return fmt.Sprintf("suite %#04x, record %d", s.Suite, s.Sequence) }
