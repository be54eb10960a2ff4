package demo

import (
	"bytes"
	"fmt"
)

// TLS constants of RFC 8446 that are readable on the wire.
const (
	recordHandshake   = 22
	recordData        = 23
	typeServerHello   = 2
	extensionVersions = 43
)

// isRecord tells that bytes begin with the header of a TLS record: a known type, a version 3.x, and a legal length
// (RFC 8446, 5.1 and 5.2).
func isRecord(b []byte) bool {
	return len(b) >= 5 && b[0] >= 20 && b[0] <= recordData && b[1] == 3 && b[2] <= 3 && int(b[3])<<8|int(b[4]) <= 1<<14+256
}

// isCleartext tells that bytes are an HTTP/2 preface or an HTTP/1 message, which must never be seen on a tunnel's port.
func isCleartext(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PRI * HTTP/2")) || bytes.Contains(b, []byte(" HTTP/1."))
}

// serverHello returns the version that a ServerHello at the start of b chooses: TLS 1.3 stands in an extension, because
// the version field must say 1.2 (RFC 8446, 4.1.3 and 4.2.1).
func serverHello(b []byte) (version string, ok bool) {
	const fixed = 5 + 4 + 2 + 32 // record header, message header, version, random
	if len(b) < fixed+1 || b[0] != recordHandshake || b[5] != typeServerHello {
		return "", false
	}
	chosen := uint16(b[9])<<8 | uint16(b[10])
	rest := b[fixed:]
	skip := 1 + int(rest[0]) + 2 + 1 // session id, cipher suite, compression
	if len(rest) < skip+2 {
		return "", false
	}
	extensions := rest[skip+2:]
	extensions = extensions[:min(len(extensions), int(rest[skip])<<8|int(rest[skip+1]))]
	for len(extensions) >= 4 {
		kind, length := int(extensions[0])<<8|int(extensions[1]), int(extensions[2])<<8|int(extensions[3])
		if len(extensions) < 4+length {
			break
		}
		if kind == extensionVersions && length == 2 {
			chosen = uint16(extensions[4])<<8 | uint16(extensions[5])
		}
		extensions = extensions[4+length:]
	}
	if chosen < 0x0301 || chosen > 0x0304 {
		return fmt.Sprintf("version %#04x", chosen), true
	}
	return fmt.Sprintf("TLS 1.%d", chosen-0x0301), true
}
